"""Slightly changed images of one volume: a segmentation that depends on such changes is not to be relied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Variant:
    """A small change that a network should not mind; both lie within what training changes at random.

    Attributes:
        shift: voxels by which the image moves, so that windows and strides fall elsewhere.
        gamma: exponent of the intensities on a scale from 0 to 1.
    """

    shift: tuple[int, int, int]
    gamma: float

    def change(self, image: torch.Tensor) -> torch.Tensor:
        """(C, X + shift, ...) of ``image`` (C, X, Y, Z) in [-1, 1]."""
        from torch.nn.functional import pad

        from fm3d_core.models.network import BACKGROUND

        changed = ((image.clamp(-1, 1) + 1) / 2).pow(self.gamma) * 2 - 1
        x, y, z = self.shift
        return pad(changed, (z, 0, y, 0, x, 0), value=BACKGROUND)

    def undo(self, scores: torch.Tensor) -> torch.Tensor:
        """(classes, X, Y, Z) on the image's grid, of scores of the changed image."""
        x, y, z = self.shift
        return scores[:, x:, y:, z:]


VARIANTS = (Variant((5, 3, 2), 1.25), Variant((3, 5, 1), 0.8), Variant((1, 6, 3), 1.4), Variant((6, 1, 2), 0.7))
