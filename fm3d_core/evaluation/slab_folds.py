"""Parts of one labelled volume held out in turn: all that can be held out while there is only one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    from fm3d_core.adaptation.cases import LoadedCase

SLABS = 4  # over the extent of what is drawn, held out alternately: each structure is then likely in both parts


@dataclass(frozen=True)
class SlabFold:
    """One part learned, the other held out.

    Attributes:
        learned: the case with the held-out slabs as not annotated.
        held_out: the case with all other slabs as not annotated.
    """

    learned: LoadedCase
    held_out: LoadedCase


def slab_folds(case: LoadedCase) -> list[SlabFold]:
    """Cut a case into slabs across its longest drawn axis, and hold out every second one, then the others.

    Args:
        case: the only one.
    """
    odd = odd_slabs(case.label.array, case.image.spacing)

    def without(slabs: npt.NDArray[np.bool_]) -> LoadedCase:
        part = np.where(slabs, IGNORED, case.label.array).astype(np.uint8)
        # what was not annotated is in the part as such; it is partial now, whatever it was
        annotation = replace(case.annotation, unlabelled_value=IGNORED)
        return replace(case, label=replace(case.label, array=part), annotation=annotation)

    return [SlabFold(without(slabs), without(~slabs)) for slabs in (odd, ~odd)]


def odd_slabs(label: npt.NDArray[np.uint8], spacing: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
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
