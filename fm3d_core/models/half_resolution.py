"""The ViT-Adapter's finest map as the terms of its sum, so that a convolution of it need not hold it.

At a ViT-L's width the map of a 112^3 crop takes 0.7 GB and, with its first convolution, most of a decoder's time. All
that makes it is linear, so a convolution's weights can be composed with each term's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.unet_blocks import add, convolve, upsample_and_convolve


@dataclass(frozen=True)
class HalfResolutionMap:
    """``norm(up(quarter) + projection(stem) + resize(tokens))`` at half the image's resolution.

    Attributes:
        stem: (B, S, X/2, Y/2, Z/2), projected to the width by the 1x1x1 convolution ``projection``.
        quarter: (B, width, X/4, Y/4, Z/4), upsampled by the transposed convolution ``up``.
        tokens: (B, width, a, b, c), upsampled trilinearly.
        norm: the batch norm over the sum.
    """

    stem: torch.Tensor
    projection: nn.Conv3d
    quarter: torch.Tensor
    up: nn.ConvTranspose3d
    tokens: torch.Tensor
    norm: nn.BatchNorm3d

    def materialise(self) -> torch.Tensor:
        """The map (B, width, X/2, Y/2, Z/2)."""
        total = add(self.up(self.quarter), self.projection(self.stem))
        resized = F.interpolate(self.tokens, size=total.shape[-3:], mode="trilinear", align_corners=False)
        return self.norm(add(total, resized))

    def convolve(self, weight: torch.Tensor) -> torch.Tensor:
        """``conv3d(materialise(), weight, padding=k // 2)`` for a weight (O, width, k, k, k), k odd.

        In training the batch norm needs the map's own statistics, and the map is made.
        """
        if self.norm.training or self.norm.running_var is None or self.norm.running_mean is None:
            return convolve(self.materialise(), weight)
        scale = (self.norm.running_var + self.norm.eps).rsqrt() * self.norm.weight
        constant = self.norm.bias - self.norm.running_mean * scale
        constant = constant + scale * (self.projection.bias + self.up.bias)  # type: ignore[operator]
        scaled = weight * scale.view(1, -1, 1, 1, 1)
        # the constant is one more channel of ones, so that it ends where the zero padding begins
        of_stem = torch.einsum("omxyz,ms->osxyz", scaled, self.projection.weight.flatten(1))
        of_ones = torch.einsum("omxyz,m->oxyz", weight, constant).unsqueeze(1)
        stem = torch.cat([self.stem, torch.ones_like(self.stem[:, :1])], dim=1)
        total = convolve(stem, torch.cat([of_stem, of_ones], dim=1))
        total = add(total, upsample_and_convolve(self.quarter, self.up.weight, scaled))
        return add(total, _resize_and_convolve(self.tokens, total.shape[-3:], scaled))


def _resize_and_convolve(tokens: torch.Tensor, size: torch.Size, weight: torch.Tensor) -> torch.Tensor:
    """``conv3d(interpolate(tokens, size, mode="trilinear"), weight, padding=k // 2)``, channels first, axis by axis."""
    x, y, z = (
        _resize_matrix(short, long, weight.shape[-1], tokens)
        for short, long in zip(tokens.shape[-3:], size, strict=True)
    )
    maps = torch.einsum("bmijk,omrst->borstijk", tokens, weight)
    maps = torch.einsum("borstijk,tzk->borsijz", maps, z)
    maps = torch.einsum("borsijz,syj->boriyz", maps, y)
    return torch.einsum("boriyz,rxi->boxyz", maps, x)


def _resize_matrix(short: int, long: int, taps: int, like: torch.Tensor) -> torch.Tensor:
    """(taps, long, short): what a tap of a zero-padded convolution reads of each source along a resized axis."""
    sources = torch.eye(short, dtype=torch.float32, device=like.device).unsqueeze(0)
    resized = F.interpolate(sources, size=long, mode="linear", align_corners=False)[0].T  # (long, short)
    padded = F.pad(resized, (0, 0, taps // 2, taps // 2))
    return torch.stack([padded[tap : tap + long] for tap in range(taps)]).to(like.dtype)
