"""A small residual U-Net whose decoder is the feature pyramid: quick on a CPU, and the peer few-shot methods must beat.

Residual units as in MONAI's UNet (Kerfoot et al. 2018); the encoder halves the resolution at once, so that only the
last, narrow level works at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from fm3d_core.models.backbone import Size, cubic_convolutions


class ResidualUNet(nn.Module):
    """U-Net of residual units with instance norm and leaky ReLU.

    Works in channels-last layout, which was a quarter faster in bfloat16 on the CPU (benchmarks/few_shot.py's volumes).

    Args:
        input_channels: image channels.
        channels: widths of the levels, the full-resolution one first; each level halves the resolution.
        encoder_convolutions, decoder_convolutions: convolutions per residual unit.
    """

    kind: Literal["pyramid"] = "pyramid"

    def __init__(
        self,
        input_channels: int = 1,
        channels: Sequence[int] = (8, 16, 32, 64),
        encoder_convolutions: int = 2,
        decoder_convolutions: int = 1,
    ) -> None:
        from monai.networks.blocks import Convolution, ResidualUnit

        super().__init__()
        levels = len(channels)
        self.config: dict[str, Any] = {
            "input_channels": input_channels,
            "channels": list(channels),
            "encoder_convolutions": encoder_convolutions,
            "decoder_convolutions": decoder_convolutions,
        }
        self.input_channels = input_channels
        self.feature_channels = tuple(channels)
        self.feature_strides: tuple[Size, ...] = tuple((2**i, 2**i, 2**i) for i in range(levels))
        self.size_multiple: Size = (2 ** (levels - 1),) * 3
        activation = {"act": ("leakyrelu", {"negative_slope": 0.01, "inplace": True})}
        # what the encoder gives to each level's decoder: the image itself at full resolution
        skips = [input_channels, *channels[1:]]
        self.encoder = nn.ModuleList(
            ResidualUnit(3, skips[i], skips[i + 1], strides=2, subunits=encoder_convolutions, **activation)
            for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            Convolution(3, channels[i + 1], channels[i], strides=2, is_transposed=True, **activation)
            for i in range(levels - 1)
        )
        self.decoder = nn.ModuleList(
            ResidualUnit(3, channels[i] + skips[i], channels[i], subunits=decoder_convolutions, **activation)
            for i in range(levels - 1)
        )
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Decoder maps (B, channels[i], X/2^i, Y/2^i, Z/2^i), finest first."""
        skips = [image.to(memory_format=torch.channels_last_3d)]
        for unit in self.encoder:
            skips.append(unit(skips[-1]))
        maps = [skips.pop()]
        for level in reversed(range(len(self.decoder))):
            wide = self.up[level](maps[0])
            # in one precision and layout, else autocast and each convolution convert the join again and again
            parts = [each.to(wide.dtype, memory_format=torch.channels_last_3d) for each in (wide, skips[level])]
            maps.insert(0, self.decoder[level](torch.cat(parts, dim=1)))
        return maps

    def lora_targets(self) -> list[str]:
        """The 3x3x3 convolutions (peft cannot adapt transposed ones, nor merge 1x1x1 ones)."""
        return cubic_convolutions(self)

    def parts(self) -> dict[str, list[str]]:
        """The way up, and the encoder's deepest unit."""
        return {"decoder": ["up", "decoder"], "bottleneck": [f"encoder.{len(self.encoder) - 1}"]}
