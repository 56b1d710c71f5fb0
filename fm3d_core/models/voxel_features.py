"""Features of single voxels: which voxels, and what a backbone's maps say of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def draw_voxels(
    label: torch.Tensor, number: int, generator: torch.Generator, known: torch.Tensor | None = None
) -> torch.Tensor:
    """Flat indices (number,) of random voxels of ``label`` (X, Y, Z); small structures count more than their volume.

    A voxel's weight is one over the square root of its structure's size, half way between all voxels alike and all
    structures alike. Where ``known`` (X, Y, Z; some voxel must be) is False none is drawn.
    """
    flat = label.flatten()
    weight = torch.bincount(flat).float().clamp(min=1).rsqrt()[flat]
    if known is not None:
        weight = weight * known.flatten()
    return torch.multinomial(weight, number, replacement=True, generator=generator)


def features_at(maps: Sequence[torch.Tensor], voxels: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """The features of all maps at some voxels, interpolated and joined: (B, n, sum of C_i) float32.

    Args:
        maps: each (B, C_i, X/s_i, Y/s_i, Z/s_i).
        voxels: (B, n) flat indices into the image's grid.
        size: of the image.
    """
    positions = torch.stack(torch.unravel_index(voxels, size), dim=-1).float()  # (B, n, 3)
    grid = (2 * positions + 1) / torch.tensor(size, device=voxels.device) - 1
    grid = grid.flip(-1)[:, None, None]  # (B, 1, 1, n, 3), in the order Z, Y, X
    found = [F.grid_sample(each.float(), grid, padding_mode="border", align_corners=False) for each in maps]
    return torch.cat([each[:, :, 0, 0] for each in found], dim=1).transpose(1, 2)
