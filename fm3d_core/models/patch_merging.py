"""The patch merging of MONAI before version 1.5, with which every public Swin UNETR file was trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

PatchMergingOrder = Literal["legacy", "monai-1.5"]

# Voxel offsets along (X, Y, Z) in the order their channels are joined. Two occur twice and 110 and 011 never: an
# oversight that MONAI kept for its weights' sake (PR #5106) until 1.5.0 (PR #8285). Names and shapes did not change.
LEGACY_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class LegacyPatchMerging(nn.Module):
    """Joins 2 x 2 x 2 neighbours in the old order, normalises and halves the width; give it to MONAI as ``downsample``.

    Args:
        dim: channels C that come in.
        norm_layer: of the joined 8 C channels.
        spatial_dims: three; the order in 2D never changed.

    Raises:
        ValueError: ``spatial_dims`` is not 3.
    """

    def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"the legacy order concerns 3D only, not {spatial_dims}D")
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, X, Y, Z, C) to (B, ceil(X/2), ceil(Y/2), ceil(Z/2), 2C); odd sizes are padded with zeros at the end."""
        x, y, z = (size % 2 for size in tokens.shape[1:4])
        if x or y or z:
            tokens = F.pad(tokens, (0, 0, 0, z, 0, y, 0, x))
        joined = torch.cat([tokens[:, i::2, j::2, k::2] for i, j, k in LEGACY_OFFSETS], dim=-1)
        return self.reduction(self.norm(joined))
