"""The 3D U-Net of Models Genesis, Universal Model and SuPreM; parameter names as in their public files.

Zhou et al. 2021 (Models Genesis, Medical Image Analysis 67), Liu et al. 2023 (CLIP-Driven Universal Model, ICCV),
Li et al. 2024 (SuPreM, ICLR).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size, cubic_convolutions


class BatchStatisticsNorm(nn.BatchNorm3d):
    """Batch norm that normalises with the statistics of what it is given, in evaluation too.

    The public weights were trained and published so. The running statistics exist in the files and never have an
    effect; here they are kept as they are, so that using the network does not change its identity.

    Raises:
        ValueError: there is one value per channel only.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(maps, None, None, self.weight, self.bias, training=True, eps=self.eps)


class ConvolutionUnit(nn.Module):
    """Convolution 3x3x3, norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1)
        self.bn1 = BatchStatisticsNorm(channels_out)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(maps)))


class DownTransition(nn.Module):
    """Two units of one encoder level; the first already widens half-way."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(
            ConvolutionUnit(channels_in, channels_out // 2), ConvolutionUnit(channels_out // 2, channels_out)
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.ops(maps)


class UpTransition(nn.Module):
    """Doubles the resolution, joins the encoder's map of that level, and narrows."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(channels_in, channels_in, kernel_size=2, stride=2)
        self.ops = nn.Sequential(
            ConvolutionUnit(channels_in + channels_out, channels_out), ConvolutionUnit(channels_out, channels_out)
        )

    def forward(self, maps: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.ops(torch.cat([self.up_conv(maps), skip], dim=1))


class SuPreMUNet(nn.Module):
    """Four-level U-Net without its last layer.

    Args:
        input_channels: image channels.
        channels: widths of the levels, the full-resolution one first (public weights: 64, 128, 256, 512). The levels
            are named by 64 times a power of two whatever their width, as in the public files.

    Raises:
        ValueError: not four even widths.
    """

    kind: Literal["pyramid"] = "pyramid"

    def __init__(self, input_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        if len(channels) != 4 or any(width % 2 for width in channels):
            raise ValueError(f"channels is {tuple(channels)}, not four even widths")
        self.config: dict[str, Any] = {"input_channels": input_channels, "channels": list(channels)}
        self.input_channels = input_channels
        first, second, third, fourth = channels
        self.down_tr64 = DownTransition(input_channels, first)
        self.down_tr128 = DownTransition(first, second)
        self.down_tr256 = DownTransition(second, third)
        self.down_tr512 = DownTransition(third, fourth)
        self.up_tr256 = UpTransition(fourth, third)
        self.up_tr128 = UpTransition(third, second)
        self.up_tr64 = UpTransition(second, first)
        self.feature_channels = tuple(channels)
        self.feature_strides: tuple[Size, ...] = tuple((2**i, 2**i, 2**i) for i in range(4))
        self.size_multiple: Size = (8, 8, 8)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Decoder maps of strides 1, 2, 4 and the bottleneck of stride 8, finest first."""
        full = self.down_tr64(image)
        half = self.down_tr128(F.max_pool3d(full, 2))
        quarter = self.down_tr256(F.max_pool3d(half, 2))
        bottleneck = self.down_tr512(F.max_pool3d(quarter, 2))
        map4 = self.up_tr256(bottleneck, quarter)
        map2 = self.up_tr128(map4, half)
        return [self.up_tr64(map2, full), map2, map4, bottleneck]

    def lora_targets(self) -> list[str]:
        """The 3x3x3 convolutions (peft cannot adapt transposed ones)."""
        return cubic_convolutions(self)

    def parts(self) -> dict[str, list[str]]:
        """The way up (FSEFT's names with "up_tr"), and the deepest level."""
        return {"decoder": ["up_tr256", "up_tr128", "up_tr64"], "bottleneck": ["down_tr512"]}
