"""MONAI's SegResNet (Myronenko 2018) without its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from fm3d_core.models.backbone import Size, cubic_convolutions


class SegResNetBackbone(nn.Module):
    """SegResNet up to its last convolution; parameters carry MONAI's names below ``network.``.

    Args:
        input_channels: image channels.
        init_filters: width at full resolution (a multiple of 8, the number of groups normalised together).
        blocks_down: residual blocks of each encoder level; each level after the first halves the resolution.
        blocks_up: residual blocks of each decoder level.
    """

    kind: Literal["pyramid"] = "pyramid"

    def __init__(
        self,
        input_channels: int = 1,
        init_filters: int = 16,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
    ) -> None:
        from monai.networks.nets import SegResNet

        super().__init__()
        self.config: dict[str, Any] = {
            "input_channels": input_channels,
            "init_filters": init_filters,
            "blocks_down": list(blocks_down),
            "blocks_up": list(blocks_up),
        }
        self.input_channels = input_channels
        self.network = SegResNet(
            in_channels=input_channels,
            out_channels=1,
            init_filters=init_filters,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )
        self.network.conv_final = self.network.conv_final[:2]  # norm and activation, without the classifier
        levels = len(blocks_down)
        self.feature_channels = tuple(init_filters * 2**i for i in range(levels))
        self.feature_strides: tuple[Size, ...] = tuple((2**i, 2**i, 2**i) for i in range(levels))
        self.size_multiple: Size = (2 ** (levels - 1),) * 3

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Decoder maps of strides 1, 2, 4, ... and the bottleneck, finest first."""
        deepest, skips = self.network.encode(image)
        maps = [deepest]
        upwards = zip(self.network.up_samples, self.network.up_layers, reversed(skips[:-1]), strict=True)
        for up, blocks, skip in upwards:
            maps.insert(0, blocks(up(maps[0]) + skip))
        maps[0] = self.network.conv_final(maps[0])
        return maps

    def lora_targets(self) -> list[str]:
        """The 3x3x3 convolutions (peft cannot merge 1x1x1 ones)."""
        return cubic_convolutions(self)

    def parts(self) -> dict[str, list[str]]:
        """The way up with the last norm, and the deepest level."""
        up = [f"network.{name}" for name in ("up_samples", "up_layers", "conv_final")]
        return {"decoder": up, "bottleneck": [f"network.down_layers.{len(self.feature_channels) - 1}"]}
