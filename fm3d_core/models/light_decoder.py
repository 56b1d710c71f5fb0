"""A decoder for token backbones that costs less than the backbone: few channels before any upsampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.models.unet_blocks import ResidualBlock


class LightDecoder(nn.Module):
    """Projects every token map to ``channels``, adds them, and doubles the resolution with ever fewer channels.

    The image enters at half its resolution, so that edges are not lost; the scores are made there and upsampled.

    Args:
        width: channels of a token map (all channels of a folded image together).
        classes: number of scores per voxel.
        patch_size: edges of the backbone's patch in voxels, any.
        input_channels: image channels.
        channels: after the projection; halved with each doubling, 16 at least.
        layers: token maps.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        patch_size: Size = (16, 16, 16),
        input_channels: int = 1,
        channels: int = 128,
        layers: int = 4,
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, channels, bias=index == 0) for index in range(layers))
        self.norm = nn.LayerNorm(channels)
        doublings = [max(math.ceil(math.log2(edge)) - 1, 0) for edge in patch_size]  # to half the resolution
        steps = max(doublings)
        widths = [max(channels // 2**step, 16) for step in range(steps + 1)]
        self.steps = nn.ModuleList()
        for step in range(steps):
            x, y, z = (2 if step >= steps - axis else 1 for axis in doublings)
            up = nn.ConvTranspose3d(widths[step], widths[step + 1], kernel_size=(x, y, z), stride=(x, y, z))
            self.steps.append(nn.Sequential(up, ResidualBlock(widths[step + 1], widths[step + 1])))
        self.image = nn.Conv3d(input_channels, widths[-1], kernel_size=4, stride=2, padding=1)
        self.join = ResidualBlock(2 * widths[-1], widths[-1])
        self.out = nn.Conv3d(widths[-1], classes, kernel_size=1)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from maps [(B, width, X/p, Y/p, Z/p)] of ``image`` (B, C, X, Y, Z)."""
        projected = [layer(tokens.movedim(1, -1)) for layer, tokens in zip(self.projections, maps, strict=True)]
        hidden = F.gelu(self.norm(torch.stack(projected).sum(dim=0))).movedim(-1, 1)
        for step in self.steps:
            hidden = step(hidden)
        edges = self.image(image)
        if hidden.shape[-3:] != edges.shape[-3:]:
            hidden = F.interpolate(hidden, size=edges.shape[-3:], mode="trilinear", align_corners=False)
        scores = self.out(self.join(torch.cat([hidden, edges], dim=1)))
        return F.interpolate(scores, size=image.shape[-3:], mode="trilinear", align_corners=False)
