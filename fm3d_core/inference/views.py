"""Turned and stretched copies of a volume, segmented each and averaged: steadier where a network learned from few.

Test-time augmentation (for medical images Wang et al. 2019, Neurocomputing 338); the changes lie within those of
training. With one labelled hippocampus, 8 views raised the mean Dice on 20 others by 0.016 ± 0.004, with three by 0.004
± 0.002 (benchmarks/views.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fm3d_core.volumes.rotations import turned

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Backbone

MOST_VIEWS = 8
WINDOWS = 32  # of all views together: a volume of one window is seen 8 times, a whole abdomen once
LARGEST_ANGLE = 0.25  # radians, about each axis
LARGEST_STRETCH = 0.12  # relative, along each axis
SMALL_PARAMETERS = 6_000_000  # a larger backbone sees a volume once
SEED = 1


@dataclass(frozen=True)
class View:
    """A linear map about the volume's centre.

    Attributes:
        matrix: (3, 3), from voxel offsets of the view to those of the volume; None: the volume as it is.
    """

    matrix: torch.Tensor | None

    def change(self, image: torch.Tensor) -> torch.Tensor:
        """The view (C, X, Y, Z) of ``image`` (C, X, Y, Z) in [-1, 1]; background outside."""
        from fm3d_core.models.network import BACKGROUND

        return image if self.matrix is None else _sampled(image - BACKGROUND, self.matrix) + BACKGROUND

    def undo(self, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(classes, X, Y, Z) on the volume's grid, 0 where the view saw nothing, and how much it saw (1, X, Y, Z)."""
        import torch

        seen = torch.ones_like(probabilities[:1])
        if self.matrix is None:
            return probabilities, seen
        back = torch.linalg.inv(self.matrix)
        return _sampled(probabilities, back), _sampled(seen, back)


@cache
def views(count: int) -> tuple[View, ...]:
    """The first ``count`` views, always the same ones; the first is the volume as it is."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    made = [View(None)]
    for _ in range(count - 1):
        stretch, angles = torch.rand(2, 3, generator=generator) * 2 - 1
        made.append(View(turned(torch.diag(1 + stretch * LARGEST_STRETCH), angles * LARGEST_ANGLE)))
    return tuple(made)


def views_for(windows: int, backbone: Backbone) -> int:
    """How many views a volume of so many windows is worth: one for the large backbones, which take seconds a window."""
    parameters = sum(each.numel() for each in backbone.parameters())  # type: ignore[attr-defined]
    if backbone.kind != "pyramid" or parameters > SMALL_PARAMETERS:
        return 1
    return min(max(WINDOWS // windows, 1), MOST_VIEWS)


def _sampled(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``image`` (C, X, Y, Z) at the positions of its own grid mapped by ``matrix`` about the centre; 0 outside."""
    import torch
    from torch.nn import functional as F

    sizes = image.shape[-3:]
    axes = [torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in sizes]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ matrix.T  # (X, Y, Z, 3)
    # grid_sample counts from -1 to 1, in the order Z, Y, X (align_corners False)
    grid = (offsets / (torch.tensor(sizes) / 2)).flip(-1)[None]
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
