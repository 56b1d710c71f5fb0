"""Which part of a label map was annotated: what nobody has looked at is unknown, not background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import LabelError, SettingsError
from fm3d_core.volumes.volume import Volume

IGNORED = 255  # in a label map in memory: this voxel was not annotated
AXES = ("sagittal", "coronal", "axial")  # slices across x, y and z of a volume in RAS
Slices = Literal["all", "drawn", "sagittal", "coronal", "axial"]
_ISOLATED = 0.5  # slices drawn here and there: their runs are at most two slices long in the mean


@dataclass(frozen=True)
class Annotation:
    """What was annotated in a labelled volume. The default is all of it: what is not drawn is then background.

    Attributes:
        structures: names of the structures that were looked for; what is not drawn may be any other. None: all.
        unlabelled_value: voxel value of the label file that means "not annotated".
        slices: which slices were annotated. "axial", "coronal" or "sagittal": those of that direction (in RAS) in
            which anything is drawn; "drawn": the direction is found; "all": every slice.

    Raises:
        SettingsError: an impossible value.
    """

    structures: tuple[str, ...] | None = None
    unlabelled_value: int | None = None
    slices: Slices = "all"

    def __post_init__(self) -> None:
        value, names = self.unlabelled_value, self.structures
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255):
            raise SettingsError(f"unlabelled_value is {value!r}", remedy="Give a voxel value from 0 to 255")
        if self.slices not in get_args(Slices):
            raise SettingsError(f"slices is {self.slices!r}", remedy=f"Choose one of: {', '.join(get_args(Slices))}")
        if names is not None:
            if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
                raise SettingsError(f"structures is {names!r}", remedy='Give a list of names: ["liver"]')
            object.__setattr__(self, "structures", tuple(name.strip() for name in names))

    @property
    def complete(self) -> bool:
        """Whether everything was annotated."""
        return self == COMPLETE

    def to_dict(self) -> dict[str, Any]:
        """What differs from the default, as plain data for JSON; empty if all was annotated."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Annotation:
        """The inverse of :meth:`to_dict`.

        Raises:
            SettingsError: an unknown name or an impossible value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise SettingsError(
                f"an annotation has no {', '.join(map(str, unknown))}", remedy=f"Known are {', '.join(known)}"
            )
        structures = data.get("structures")
        return cls(**{**data, "structures": tuple(structures) if isinstance(structures, list) else structures})

    def names_of(self, values: Mapping[str, int]) -> dict[int, str]:
        """Voxel value -> name of all that may occur in the label file, for :func:`fm3d_core.volumes.read_label`.

        Raises:
            LabelError: two structures share a value, or one has the value that means "not annotated".
        """
        names = {value: name for name, value in values.items()}
        remedy = "Give each structure a voxel value of its own"
        if len(names) < len(values):
            raise LabelError(f"two of {', '.join(values)} have the same voxel value", remedy=remedy)
        if self.unlabelled_value in names:
            raise LabelError(
                f"{self.unlabelled_value} means both {names[self.unlabelled_value]} and not annotated", remedy=remedy
            )
        return names if self.unlabelled_value is None else {**names, self.unlabelled_value: "not annotated"}


COMPLETE = Annotation()


def map_label(
    label: Volume, values: Mapping[str, int], labels: Sequence[str], annotation: Annotation
) -> tuple[Volume, Annotation]:
    """A label map in a task's order, with ``IGNORED`` where nothing was annotated.

    Args:
        label: as read.
        values: structure name -> voxel value in ``label``; a structure that is not in ``labels`` becomes background.
        labels: the task's structures; the i-th becomes i + 1.
        annotation: of this label.

    Returns:
        The mapped label; the annotation with the direction of its slices.

    Raises:
        LabelError: a structure is drawn or unknown that contradicts the annotation, or no direction can be found.
    """
    _check_structures(label, values, annotation)
    mapped = np.zeros_like(label.array, dtype=np.uint8)
    for index, name in enumerate(labels, start=1):
        if name in values:
            mapped[label.array == values[name]] = index
    drawn = label.array != 0
    if annotation.unlabelled_value is not None:
        unlabelled = label.array == annotation.unlabelled_value
        mapped[unlabelled] = IGNORED
        drawn &= ~unlabelled
    if annotation.slices != "all":
        if annotation.slices == "drawn" and drawn.any():
            annotation = replace(annotation, slices=_direction(label, drawn))
        axis = AXES.index(annotation.slices) if drawn.any() else 0
        mapped[(*[slice(None)] * axis, ~_any_in_slice(drawn, axis))] = IGNORED
    return Volume(array=mapped, affine=label.affine, source=label.source), annotation


def _check_structures(label: Volume, values: Mapping[str, int], annotation: Annotation) -> None:
    path = label.source.path
    if annotation.structures is None:
        return
    if unknown := [name for name in annotation.structures if name not in values]:
        raise LabelError(
            f"is said to be annotated for {', '.join(unknown)}", path=path, remedy=f"Known are {', '.join(values)}"
        )
    present = set(np.unique(label.array).tolist())
    if extra := [name for name, value in values.items() if value in present and name not in annotation.structures]:
        raise LabelError(
            f"shows {', '.join(extra)}, said to be not annotated in it",
            path=path,
            remedy="Add it to the annotated structures of this case, or erase it",
        )


def _any_in_slice(drawn: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = drawn.any(axis=tuple(other for other in range(3) if other != axis))
    return found


def _direction(label: Volume, drawn: npt.NDArray[np.bool_]) -> Slices:
    """The one direction in which the drawn slices lie apart.

    Of every fifth slice each stands alone; across, a structure runs through many neighbouring slices. The direction
    has the most runs of drawn slices per drawn slice; a block of neighbouring slices does not tell one.
    """
    runs = []
    for axis in range(3):
        found = _any_in_slice(drawn, axis).astype(np.int8)
        runs.append(float((np.diff(found, prepend=0) == 1).sum() / found.sum()))
    best = max(runs)
    if best < _ISOLATED or runs.count(best) > 1:
        raise LabelError(
            "does not tell in which direction its slices were drawn",
            path=label.source.path,
            remedy=f"Name it in place of drawn: {', '.join(AXES)}",
        )
    found_direction: Slices = get_args(Slices)[2 + runs.index(best)]
    return found_direction
