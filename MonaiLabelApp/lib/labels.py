"""Which structure each voxel value of a submitted label means. By name, because every client numbers in its own way."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import LabelError

if TYPE_CHECKING:
    from monailabel.interfaces.datastore import Datastore

# Segments that MONAI Label's Slicer plugin keeps in the scene but does not write into the label map.
NO_STRUCTURES = frozenset({"background", "background_scribbles", "foreground_scribbles"})
FINAL = "final"  # MONAI Label's tag of labels that a person has approved


def voxel_values(label_info: Sequence[Mapping[str, Any]], present: Collection[int]) -> dict[str, int]:
    """Structure name -> voxel value of one label map.

    ``idx`` of an entry is its voxel value, except from MONAI Label's Slicer plugin: there the voxels are numbered
    1, 2, ... in the order of the entries, while idx also counts segments that were left out. The voxels decide.

    Args:
        label_info: entries ``{"name": ..., "idx": ...}`` as submitted.
        present: the values above 0 that occur in the label map.

    Raises:
        LabelError: an entry without a name, a name or value twice, a voxel value without a name, or both readings
            possible.
    """
    entries = [(_name(entry), _index(entry)) for entry in label_info]
    entries = [(name, index) for name, index in entries if name.lower() not in NO_STRUCTURES]
    by_place = {name: place for place, (name, _) in enumerate(entries, start=1)}
    by_index = {name: place if index is None else index for place, (name, index) in enumerate(entries, start=1)}
    indices = list(by_index.values())
    remedy = "Number the structures 1 to N without gaps in label_info, as in the label map"
    if len(by_place) < len(entries) or len(set(indices)) < len(indices):
        raise LabelError("label_info names a structure or a value twice", remedy=remedy)
    readings = [by_index, by_place] if indices == sorted(indices) else [by_index]
    readings = [reading for reading in readings if set(present) <= set(reading.values())]
    if not readings:
        raise LabelError(
            f"has the voxel values {_listed(present)}, but label_info names {_listed(indices) or 'none'}", remedy=remedy
        )
    if len({tuple(_seen(reading, present)) for reading in readings}) > 1:
        raise LabelError("label_info does not say which structure each voxel value means", remedy=remedy)
    return readings[0]


def read_label_info(info: Mapping[str, Any], present: Collection[int]) -> dict[str, int]:
    """Structure name -> voxel value from what was sent with a label.

    Raises:
        LabelError: label_info is not a list of names and values that fits.
    """
    entries = info["label_info"]
    if not isinstance(entries, list) or not entries:
        raise LabelError("label_info is not a list", remedy='Send [{"name": "liver", "idx": 1}, ...]')
    return voxel_values(entries, present)


def submitted_structures(datastore: Datastore) -> tuple[str, ...]:
    """Names of the structures in all submitted labels, in the order of their images' ids."""
    names: dict[str, None] = {}
    for image_id in sorted(datastore.get_labeled_images()):
        entries = datastore.get_label_info(image_id, FINAL).get("label_info") or []
        named = sorted(entries, key=lambda entry: _index(entry) or 0)
        names.update(dict.fromkeys(_name(entry) for entry in named))
    return tuple(name for name in names if name.lower() not in NO_STRUCTURES)


def structures_to_learn(
    asked: Sequence[str] | None, configured: Sequence[str], active: Sequence[str], submitted: Sequence[str]
) -> tuple[str, ...]:
    """What a training learns: what was asked for, else what the server was started with, else what was submitted.

    Submitted structures keep the order of the active adapter, new ones follow; labels without names
    leave the active adapter's structures.
    """
    if asked or configured:
        return tuple(asked or configured)
    known = tuple(name for name in active if name in submitted)
    return (known + tuple(name for name in submitted if name not in known)) or tuple(active)


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 128:
        raise LabelError("label_info has an entry without a name", remedy='Send [{"name": "liver", "idx": 1}, ...]')
    return name.strip()


def _index(entry: Mapping[str, Any]) -> int | None:
    index = entry.get("idx")
    if index is None:
        return None
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= 255:
        raise LabelError(f"label_info has the value {str(index)[:32]}", remedy="Use whole numbers from 1 to 255")
    return index


def _seen(reading: Mapping[str, int], present: Collection[int]) -> list[tuple[str, int]]:
    return sorted((name, value) for name, value in reading.items() if value in present)


def _listed(values: Collection[int]) -> str:
    return ", ".join(str(value) for value in sorted(values)[:8])
