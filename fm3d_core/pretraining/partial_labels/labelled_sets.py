"""Which sets a run learns from: a YAML list, or a folder whose sub-folders are called like label maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.pretraining.partial_labels.label_maps import LabelMap, LabelMaps
from fm3d_core.strict_settings import read_yaml

_REMEDY = "Write a list of {name: ..., folder: ..., map: ...}, or give a folder of sets named like label maps"


@dataclass(frozen=True)
class LabelledSet:
    """A folder of images and labels, and what the labels mean.

    Attributes:
        name: for messages; unique in a run.
        folder: with ``images`` and ``labels``.
        label_map: of its labels.
    """

    name: str
    folder: Path
    label_map: LabelMap

    @property
    def group(self) -> str:
        """What it is balanced as."""
        return self.label_map.group or self.name


def find_labelled_sets(data: str | Path | None, maps: LabelMaps) -> list[LabelledSet]:
    """The sets of a run.

    Args:
        data: a YAML file with a list of ``{name, folder, map}`` (``name`` may be left out: the map's; folders are
            relative to the file), or a folder in which each sub-folder is a set called like its label map.
        maps: where the names are looked up.

    Raises:
        SettingsError: not such a list, an unknown map, or a name twice.
        CaseError: no such folder, or one without sets.
    """
    if data is None:
        raise SettingsError("supervised pretraining needs labelled sets", remedy=_REMEDY)
    data = Path(data)
    if data.is_dir():
        found = [
            LabelledSet(folder.name, folder, maps.find(folder.name))
            for folder in sorted(data.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        ]
    elif data.is_file():
        found = [_from_entry(entry, data, maps) for entry in _entries(data)]
    else:
        raise CaseError("does not exist", path=data, remedy=_REMEDY)
    if not found:
        raise CaseError("holds no labelled sets", path=data, remedy=_REMEDY)
    names = [item.name for item in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"two sets are called '{twice[0]}'", path=data, remedy="Give each a name of its own")
    return found


def _entries(path: Path) -> list[Any]:
    content = read_yaml(path, "is no readable list of sets", _REMEDY)
    if not isinstance(content, list):
        raise SettingsError("is no list of sets", path=path, remedy=_REMEDY)
    return content


def _from_entry(entry: Any, path: Path, maps: LabelMaps) -> LabelledSet:
    sound = isinstance(entry, dict) and {"folder", "map"} <= set(entry) <= {"name", "folder", "map"}
    if not sound:
        raise SettingsError(f"holds an entry that is no set: {entry}", path=path, remedy=_REMEDY)
    folder = path.parent / str(entry["folder"])
    if not folder.is_dir():
        raise CaseError("is no folder", path=folder, remedy=f"Correct the folder in {path}")
    return LabelledSet(str(entry.get("name", entry["map"])), folder, maps.find(str(entry["map"])))
