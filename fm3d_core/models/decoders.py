"""Decoders for token backbones: from a few token maps back to the voxels of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size


class UNETRHead(nn.Module):
    """UNETR's decoder (Hatamizadeh et al. 2022) on four token maps; block names as in MONAI and in 3DINO's head.

    Args:
        width: channels of a token map, of one image channel.
        classes: number of scores per voxel.
        patch_size: edges of the backbone's patch in voxels; the decoder doubles the resolution four times.
        input_channels: image channels; a one-channel backbone that saw them one by one gives
            ``input_channels * width`` channels per map, which are merged here.
        feature_size: channels at full resolution.

    Raises:
        ValueError: the patch is not 16 x 16 x 16 voxels.
    """

    def __init__(
        self, width: int, classes: int, patch_size: Size = (16, 16, 16), input_channels: int = 1, feature_size: int = 32
    ) -> None:
        from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        super().__init__()
        if tuple(patch_size) != (16, 16, 16):
            raise ValueError(f"UNETR's decoder needs patches of 16 x 16 x 16 voxels, not {patch_size}")
        size, common = feature_size, {"norm_name": "instance", "res_block": True}
        for index in range(1, 5):
            self.add_module(f"channel_merge{index}", nn.Linear(width * input_channels, width))
        self.encoder1 = UnetrBasicBlock(3, input_channels, size, kernel_size=3, stride=1, **common)
        project = {"kernel_size": 3, "stride": 1, "upsample_kernel_size": 2, "conv_block": True, **common}
        self.encoder2 = UnetrPrUpBlock(3, width, 2 * size, num_layer=2, **project)
        self.encoder3 = UnetrPrUpBlock(3, width, 4 * size, num_layer=1, **project)
        self.encoder4 = UnetrPrUpBlock(3, width, 8 * size, num_layer=0, **project)
        up = {"kernel_size": 3, "upsample_kernel_size": 2, **common}
        self.decoder5 = UnetrUpBlock(3, width, 8 * size, **up)
        self.decoder4 = UnetrUpBlock(3, 8 * size, 4 * size, **up)
        self.decoder3 = UnetrUpBlock(3, 4 * size, 2 * size, **up)
        self.decoder2 = UnetrUpBlock(3, 2 * size, size, **up)
        self.out = UnetOutBlock(3, size, classes)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from four maps (B, width * channels, X/16, Y/16, Z/16), shallow to deep."""
        merged = [self._merge(index, tokens) for index, tokens in enumerate(maps, start=1)]
        full = self.encoder1(image)
        half, quarter, eighth = self.encoder2(merged[0]), self.encoder3(merged[1]), self.encoder4(merged[2])
        hidden = self.decoder4(self.decoder5(merged[3], eighth), quarter)
        return self.out(self.decoder2(self.decoder3(hidden, half), full))

    def _merge(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        layer = self.get_submodule(f"channel_merge{index}")
        merged = F.gelu(layer(tokens.movedim(1, -1)))  # (B, X, Y, Z, width)
        return merged.movedim(-1, 1)
