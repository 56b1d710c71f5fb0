"""MONAI's Swin UNETR (Hatamizadeh et al. 2022) without its last layer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from fm3d_core.models.backbone import Size
from fm3d_core.models.patch_merging import LegacyPatchMerging, PatchMergingOrder


class SwinUNETRBackbone(nn.Module):
    """Swin UNETR up to its last decoder; parameters carry MONAI's names below ``network.``.

    Args:
        input_channels: image channels.
        feature_size: width of the first stage (a multiple of 12; public weights: 48).
        patch_merging: the order in which neighbouring patches are joined, a property of the weights: "legacy" for
            files from MONAI before 1.5 (all public ones), "monai-1.5" for what was trained with MONAI since.

    Raises:
        ValueError: another ``patch_merging``, or a ``feature_size`` that is not a multiple of 12.
    """

    kind: Literal["pyramid"] = "pyramid"

    def __init__(
        self, input_channels: int = 1, feature_size: int = 24, patch_merging: PatchMergingOrder = "monai-1.5"
    ) -> None:
        from monai.networks.nets import SwinUNETR

        super().__init__()
        merging: dict[str, Any] = {"legacy": LegacyPatchMerging, "monai-1.5": "merging"}
        if patch_merging not in merging:
            raise ValueError(f"patch_merging is {patch_merging!r}, not one of {', '.join(merging)}")
        self.config: dict[str, Any] = {
            "input_channels": input_channels,
            "feature_size": feature_size,
            "patch_merging": patch_merging,
        }
        self.input_channels = input_channels
        self.network = SwinUNETR(
            in_channels=input_channels, out_channels=1, feature_size=feature_size, downsample=merging[patch_merging]
        )
        self.network.out = nn.Identity()
        width = feature_size
        self.feature_channels = (width, width, 2 * width, 4 * width, 8 * width, 16 * width)
        self.feature_strides: tuple[Size, ...] = tuple((2**i, 2**i, 2**i) for i in range(6))
        self.size_multiple: Size = (32, 32, 32)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Decoder maps of strides 1 to 16 and the bottleneck of stride 32, finest first."""
        net = self.network
        hidden = net.swinViT(image, net.normalize)
        encoded = [net.encoder1(image), net.encoder2(hidden[0]), net.encoder3(hidden[1]), net.encoder4(hidden[2])]
        bottleneck = net.encoder10(hidden[4])
        map16 = net.decoder5(bottleneck, hidden[3])
        map8 = net.decoder4(map16, encoded[3])
        map4 = net.decoder3(map8, encoded[2])
        map2 = net.decoder2(map4, encoded[1])
        return [net.decoder1(map2, encoded[0]), map2, map4, map8, map16, bottleneck]

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """The transformer's last map alone (B, 16 feature_size, X/32, Y/32, Z/32), without the U-Net around it."""
        return self.network.swinViT(image, self.network.normalize)[-1]

    def lora_targets(self) -> list[str]:
        """The fused query-key-value projections of every Swin block."""
        return [
            name for name, module in self.named_modules() if name.endswith(".qkv") and isinstance(module, nn.Linear)
        ]

    def parts(self) -> dict[str, list[str]]:
        """FSEFT's: the blocks called decoder, and the convolutions between transformer and decoder, called encoder."""
        return {
            "decoder": [f"network.decoder{number}" for number in (5, 4, 3, 2, 1)],
            "bottleneck": [f"network.encoder{number}" for number in (1, 2, 3, 4, 10)],
        }
