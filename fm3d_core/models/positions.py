"""Learned position embeddings on another patch grid."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from fm3d_core.models.backbone import Size

Interpolation = Literal["published", "plain"]


def resize_position_embedding(
    embedding: torch.Tensor, grid: Size, interpolation: Interpolation = "published"
) -> torch.Tensor:
    """A position embedding (1, 1 + E**3, C) with its class token, on another grid: (1, 1 + N, C).

    Args:
        embedding: the class token's first, then those of a cube of patches, Z fastest.
        grid: patches along each axis.
        interpolation: "published" keeps the 0.1 that 3DINO and DINOv2 add to the size in the sampling scale (their
            weights were trained with that shift, and 3DINO's high-resolution weights were made with it); "plain"
            interpolates to the size itself.

    Raises:
        ValueError: the embedding is not one of a cube.
    """
    edge = round((embedding.shape[1] - 1) ** (1 / 3))
    if edge**3 != embedding.shape[1] - 1:
        raise ValueError(f"{embedding.shape[1] - 1} positions are not a cube of patches")
    if grid == (edge, edge, edge):
        return embedding
    cube = embedding[:, 1:].float().reshape(1, edge, edge, edge, -1).permute(0, 4, 1, 2, 3)
    if interpolation == "published":
        factors = [(size + 0.1) / edge for size in grid]
        cube = F.interpolate(cube, scale_factor=factors, mode="trilinear", align_corners=False)
    else:
        cube = F.interpolate(cube, size=grid, mode="trilinear", align_corners=False)
    positions = cube.flatten(2).transpose(1, 2).to(embedding.dtype)
    return torch.cat([embedding[:, :1], positions], dim=1)
