"""Supervised contrast between voxels: same structure together, others apart (Khosla et al. 2020, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def draw_voxels(label: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Flat indices (number,) of random voxels of ``label`` (X, Y, Z); small structures count more than their volume.

    A voxel's weight is one over the square root of its structure's size, half way between all voxels alike and all
    structures alike.
    """
    flat = label.flatten()
    weight = torch.bincount(flat).float().clamp(min=1).rsqrt()[flat]
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


def supervised_contrast(embedded: torch.Tensor, label: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of voxels (n, C) with labels (n,): a scalar.

    For each voxel the mean log-probability of its partners (the others of its label) among all others, by cosine
    similarity over the temperature. Voxels without a partner are left out; without any partner the loss is 0.
    """
    unit = F.normalize(embedded.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    log_probability = (similarity - similarity.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    partner = (label[:, None] == label[None]) & ~itself
    count = partner.sum(1)
    each = -(log_probability * partner).sum(1) / count.clamp(min=1)
    paired = count > 0
    return (each * paired).sum() / paired.sum().clamp(min=1)
