"""Small heads on a backbone's coarsest map: the missing voxels, the angle, an embedding. They are thrown away later."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.pretraining.pretext.views import QUARTERS


class ReconstructionHead(nn.Module):
    """From the coarsest map back to the voxels: transposed convolutions that double, with ever fewer channels.

    It sees nothing but that map, so the map must hold what is missing (Tang et al. 2022: a transposed convolution on
    the encoder's output).

    Args:
        inputs: channels of the map.
        stride: voxels per map voxel.
        width: channels after the first projection; halved with each doubling, 16 at least.
    """

    def __init__(self, inputs: int, stride: Size, width: int = 128) -> None:
        super().__init__()
        axes = [math.ceil(math.log2(step)) for step in stride]
        widths = [max(width // 2**step, 16) for step in range(max(axes) + 1)]
        layers: list[nn.Module] = [nn.Conv3d(inputs, widths[0], kernel_size=1)]
        for step in range(max(axes)):
            x, y, z = (2 if step < doublings else 1 for doublings in axes)
            layers += [
                nn.ConvTranspose3d(widths[step], widths[step + 1], kernel_size=(x, y, z), stride=(x, y, z)),
                nn.GroupNorm(1, widths[step + 1]),  # one group: the map may be a single voxel
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, kernel_size=1))

    def forward(self, coarsest: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Intensities (B, 1, X, Y, Z) of ``size`` voxels from (B, C, X/s, Y/s, Z/s)."""
        values = self.layers(coarsest)
        if values.shape[-3:] != size:  # strides that are no powers of 2
            values = F.interpolate(values, size=size, mode="trilinear", align_corners=False)
        return values


class PretextHeads(nn.Module):
    """The three heads together.

    Args:
        inputs, stride: of the coarsest map.
        embedding: length of the contrastive embedding (Tang et al. 2022: 512).
        width: see :class:`ReconstructionHead`.
    """

    def __init__(self, inputs: int, stride: Size, embedding: int = 512, width: int = 128) -> None:
        super().__init__()
        self.reconstruction = ReconstructionHead(inputs, stride, width)
        self.rotation = nn.Linear(inputs, QUARTERS)
        self.contrast = nn.Linear(inputs, embedding)

    def forward(self, coarsest: torch.Tensor, size: torch.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Intensities (B, 1, X, Y, Z), scores of the four angles (B, 4) and embeddings (B, D)."""
        pooled = coarsest.mean(dim=(2, 3, 4))
        return self.reconstruction(coarsest, size), self.rotation(pooled), self.contrast(pooled)
