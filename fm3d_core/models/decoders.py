"""Published decoders: from the features of a ViT, or of a ViT-Adapter, back to the voxels of the image.

Block names are those of MONAI and of 3DINO's released heads, so that their weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.models.network import pad_to_multiple
from fm3d_core.models.unet_blocks import finish_residual_block, projection_block, residual_block, upsampling_block
from fm3d_core.models.vit import Spacing
from fm3d_core.models.vit_adapter import ViTAdapter

_BLOCK = {"kernel_size": 3, "norm_name": "instance", "res_block": True}


class LinearDecoder(nn.Module):
    """3DINO's linear decoder: channel merge, batch norm and one linear classifier on four token maps.

    Args:
        width: channels of a token map, of one image channel.
        classes: number of scores per voxel.
        folded_channels: image channels that a one-channel backbone saw one by one.
        layers: token maps; 3DINO takes the last four layers.
    """

    def __init__(self, width: int, classes: int, folded_channels: int = 1, layers: int = 4) -> None:
        super().__init__()
        self.channel_merge = nn.Conv3d(width * folded_channels, width, kernel_size=1)
        self.bn = nn.BatchNorm3d(layers * width)
        self.conv_seg = nn.Conv3d(layers * width, classes, kernel_size=1)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from maps (B, width * folded_channels, X/p, Y/p, Z/p)."""
        merged = torch.cat([F.gelu(self.channel_merge(tokens)) for tokens in maps], dim=1)
        scores = self.conv_seg(self.bn(merged))
        return F.interpolate(scores, size=image.shape[-3:], mode="trilinear", align_corners=False)


class UNETRHead(nn.Module):
    """UNETR's decoder (Hatamizadeh et al. 2022) on four token maps.

    Args:
        width: channels of a token map, of one image channel.
        classes: number of scores per voxel.
        patch_size: edges of the backbone's patch in voxels; the decoder doubles the resolution four times.
        input_channels: image channels.
        folded_channels: image channels that a one-channel backbone saw one by one: a map then has
            ``folded_channels * width`` channels, which are merged here.
        feature_size: channels at full resolution.

    Raises:
        ValueError: the patch is not 16 x 16 x 16 voxels.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        patch_size: Size = (16, 16, 16),
        input_channels: int = 1,
        folded_channels: int = 1,
        feature_size: int = 32,
    ) -> None:
        from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        super().__init__()
        if tuple(patch_size) != (16, 16, 16):
            raise ValueError(f"UNETR's decoder needs patches of 16 x 16 x 16 voxels, not {patch_size}")
        size = feature_size
        for index in range(1, 5):
            self.add_module(f"channel_merge{index}", nn.Linear(width * folded_channels, width))
        self.encoder1 = UnetrBasicBlock(3, input_channels, size, stride=1, **_BLOCK)
        project = {"stride": 1, "upsample_kernel_size": 2, "conv_block": True, **_BLOCK}
        self.encoder2 = UnetrPrUpBlock(3, width, 2 * size, num_layer=2, **project)
        self.encoder3 = UnetrPrUpBlock(3, width, 4 * size, num_layer=1, **project)
        self.encoder4 = UnetrPrUpBlock(3, width, 8 * size, num_layer=0, **project)
        self.decoder5 = UnetrUpBlock(3, width, 8 * size, upsample_kernel_size=2, **_BLOCK)
        self.decoder4 = UnetrUpBlock(3, 8 * size, 4 * size, upsample_kernel_size=2, **_BLOCK)
        self.decoder3 = UnetrUpBlock(3, 4 * size, 2 * size, upsample_kernel_size=2, **_BLOCK)
        self.decoder2 = UnetrUpBlock(3, 2 * size, size, upsample_kernel_size=2, **_BLOCK)
        self.out = UnetOutBlock(3, size, classes)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from four maps (B, width * folded_channels, X/16, ...), shallow to deep."""
        merged = [self._merge(index, tokens) for index, tokens in enumerate(maps, start=1)]
        hidden = upsampling_block(self.decoder5, merged[3], projection_block(self.encoder4, merged[2]))
        hidden = upsampling_block(self.decoder4, hidden, projection_block(self.encoder3, merged[1]))
        hidden = upsampling_block(self.decoder3, hidden, projection_block(self.encoder2, merged[0]))
        return self.out(upsampling_block(self.decoder2, hidden, residual_block(self.encoder1.layer, image)))

    def _merge(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        layer = self.get_submodule(f"channel_merge{index}")
        merged = F.gelu(layer(tokens.movedim(1, -1)))  # (B, X, Y, Z, width)
        return merged.movedim(-1, 1)


class ViTAdapterUNETR(nn.Module):
    """A ViT-Adapter and a U-Net decoder of residual blocks on its four maps and the image (3DINO's main head).

    Args:
        feature_model: the ViT-Adapter.
        classes: number of scores per voxel.
        feature_size: channels at full and half resolution; doubled at each level below.
    """

    def __init__(self, feature_model: ViTAdapter, classes: int, feature_size: int = 32) -> None:
        from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock

        super().__init__()
        self.feature_model = feature_model
        width, size = feature_model.feature_channels[0], feature_size
        encoded = [size, size, 2 * size, 4 * size, 8 * size]
        for index, (before, after) in enumerate(
            zip([feature_model.input_channels, *[width] * 4], encoded, strict=True), start=1
        ):
            self.add_module(f"encoder{index}", UnetrBasicBlock(3, before, after, stride=1, **_BLOCK))
        for index in (4, 3, 2, 1):
            up = UnetrUpBlock(3, encoded[index], encoded[index - 1], upsample_kernel_size=2, **_BLOCK)
            self.add_module(f"decoder{index}", up)
        self.out = UnetOutBlock(3, size, classes)

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) of ``image`` (B, C, X, Y, Z) of any size."""
        padded = pad_to_multiple(image, self.feature_model.size_multiple)
        half, quarter, eighth, sixteenth = self.feature_model.levels(padded, spacing)
        hidden = residual_block(self._encoder(5), sixteenth)
        hidden = upsampling_block(self.get_submodule("decoder4"), hidden, residual_block(self._encoder(4), eighth))
        hidden = upsampling_block(self.get_submodule("decoder3"), hidden, residual_block(self._encoder(3), quarter))
        del quarter, eighth, sixteenth
        second = self._encoder(2)
        skip = finish_residual_block(
            second, half.convolve(second.conv1.conv.weight), lambda: half.convolve(second.conv3.conv.weight)
        )
        hidden = upsampling_block(self.get_submodule("decoder2"), hidden, skip)
        del half, skip
        scores = upsampling_block(self.get_submodule("decoder1"), hidden, residual_block(self._encoder(1), padded))
        x, y, z = image.shape[-3:]
        return self.out(scores)[..., :x, :y, :z]

    def _encoder(self, index: int) -> Any:
        return self.get_submodule(f"encoder{index}.layer")
