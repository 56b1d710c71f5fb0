"""Two views of a crop: turned about the axis through the slices, with boxes cut out.

Tang et al. 2022 ("Self-supervised pre-training of Swin transformers for 3D medical image analysis"), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fm3d_core.errors import SettingsError

QUARTERS = 4  # 0, 90, 180 and 270 degrees


@dataclass(frozen=True)
class CutOutSettings:
    """How much is hidden.

    Attributes:
        share: of the voxels that are hidden at least (the paper: 30 %).
        side: smallest and largest side of a box, as a share of the crop's.
        fill: what is put there; 0 is the middle of the intensity range and no tissue of its own.

    Raises:
        SettingsError: shares outside of (0, 1], or in the wrong order.
    """

    share: float = 0.3
    side: tuple[float, float] = (1 / 16, 1 / 4)
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or not 0 < self.side[0] <= self.side[1] <= 1:
            raise SettingsError(f"impossible cut-out {self}", remedy="Shares rise within 0 to 1")


def draw_view(
    crop: torch.Tensor, settings: CutOutSettings, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A view of a (1, X, Y, Z) crop whose first two sides are equal.

    Returns:
        The turned crop, its hidden voxels (1, X, Y, Z) bool, and by how many quarters it was turned.
    """
    quarters = int(torch.randint(QUARTERS, (), generator=generator))
    turned = torch.rot90(crop, quarters, (1, 2)).contiguous()
    x, y, z = turned.shape[1:]
    return turned, draw_boxes((x, y, z), settings, generator)[None], quarters


def draw_boxes(size: tuple[int, int, int], settings: CutOutSettings, generator: torch.Generator) -> torch.Tensor:
    """Boxes at random places until they cover the share: (X, Y, Z) bool."""
    hidden = torch.zeros(size, dtype=torch.bool)
    wanted, covered = settings.share * hidden.numel(), 0
    while covered < wanted:
        box = []
        for length in size:
            low, high = (max(1, round(share * length)) for share in settings.side)
            side = int(torch.randint(low, high + 1, (), generator=generator))
            start = int(torch.randint(length - side + 1, (), generator=generator))
            box.append(slice(start, start + side))
        part = hidden[tuple(box)]
        covered += part.numel() - int(part.sum())
        part.fill_(True)
    return hidden
