"""Parts of one labelled volume held out in turn: all that can be held out while there is only one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.evaluation.truth import Truth
from fm3d_core.volumes import IGNORED, check_label, map_label, read_label, read_volume, write_nifti

if TYPE_CHECKING:
    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.tasks import SegmentationTask

SLABS = 4  # over the extent of what is drawn, held out alternately: each structure is then likely in both parts


@dataclass(frozen=True)
class SlabFold:
    """One part learned, the other held out.

    Attributes:
        learned: the case with the held-out slabs as not annotated.
        held_out: the truth of the held-out slabs alone.
        structures: drawn in the learned part.
    """

    learned: LabeledCase
    held_out: Truth
    structures: frozenset[str]


def slab_folds(case: LabeledCase, task: SegmentationTask, folder: Path) -> list[SlabFold]:
    """Cut a case into slabs across its longest drawn axis, and hold out every second one, then the others.

    Args:
        case: the only one.
        task: its structures.
        folder: for two label files; may be deleted when they were learned from.

    Raises:
        FM3DError: the case cannot be used.
    """
    values = dict(case.values if case.values is not None else task.values)
    image = read_volume(case.image)
    label = read_label(case.label, names=case.annotation.names_of(values))
    check_label(label, image, allow_empty=True)
    mapped, annotation = map_label(label, values, task.labels, case.annotation)
    looked_for = annotation.structures
    annotated = np.array([True, *(looked_for is None or name in looked_for for name in task.labels)])
    odd = _odd_slabs(mapped.array, image.spacing)
    folds = []
    for number, held_out in enumerate((odd, ~odd)):
        part = np.where(held_out, IGNORED, mapped.array).astype(np.uint8)
        path = write_nifti(folder / f"part_{number}.nii.gz", part, mapped.affine)
        # the slices that were not annotated are in the file as such, and need no finding again
        learned = replace(
            case,
            name=f"{case.name}, part {number + 1}",
            label=path,
            values=task.values,
            annotation=replace(annotation, unlabelled_value=IGNORED, slices="all"),
        )
        known = held_out & (mapped.array != IGNORED)
        truth = Truth(np.where(known, mapped.array, 0).astype(np.uint8), known, annotated)
        drawn = frozenset(name for name, value in task.values.items() if (part == value).any())
        folds.append(SlabFold(learned, truth, drawn))
    return folds


def _odd_slabs(label: npt.NDArray[np.uint8], spacing: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    """(X, Y, Z) bool, every second slab across the axis along which what is drawn is longest in mm."""
    positions = np.argwhere((label > 0) & (label != IGNORED))
    if not len(positions):
        return np.zeros(label.shape, bool)
    low, high = positions.min(0), positions.max(0) + 1
    axis = int(np.argmax((high - low) * spacing))
    width = max((high[axis] - low[axis]) / SLABS, 1.0)
    odd = (np.floor((np.arange(label.shape[axis]) - low[axis]) / width) % 2).astype(bool)
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.broadcast_to(odd.reshape(shape), label.shape)
