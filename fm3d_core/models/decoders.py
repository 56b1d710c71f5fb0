"""Published decoders: from the features of a ViT, or of a ViT-Adapter, back to the voxels of the image.

Block names are those of MONAI and of 3DINO's released heads, so that their weights load.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.models.channels import FoldedChannels
from fm3d_core.models.half_resolution import HalfResolutionMap
from fm3d_core.models.linear import Linear
from fm3d_core.models.network import pad_to_multiple
from fm3d_core.models.rotary import Spacing
from fm3d_core.models.unet_blocks import ProjectionBlock, ResidualBlock, UpsamplingBlock, add, convolve
from fm3d_core.models.vit_adapter import ViTAdapter


class EncoderBlock(nn.Module):
    """A residual block under MONAI's name ``layer``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = ResidualBlock(inputs, outputs)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layer(maps)


class OutputBlock(nn.Module):
    """A 1x1x1 convolution under MONAI's name ``conv.conv``."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(OrderedDict(conv=nn.Conv3d(inputs, classes, kernel_size=1)))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        scores = convolve(maps, self.get_parameter("conv.conv.weight"))
        return add(scores, self.get_parameter("conv.conv.bias").view(1, -1, 1, 1, 1))


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
        super().__init__()
        if tuple(patch_size) != (16, 16, 16):
            raise ValueError(f"UNETR's decoder needs patches of 16 x 16 x 16 voxels, not {patch_size}")
        size = feature_size
        for index in range(1, 5):
            self.add_module(f"channel_merge{index}", Linear(width * folded_channels, width))
        self.encoder1 = EncoderBlock(input_channels, size)
        self.encoder2 = ProjectionBlock(width, 2 * size, steps=2)
        self.encoder3 = ProjectionBlock(width, 4 * size, steps=1)
        self.encoder4 = ProjectionBlock(width, 8 * size, steps=0)
        self.decoder5 = UpsamplingBlock(width, 8 * size)
        self.decoder4 = UpsamplingBlock(8 * size, 4 * size)
        self.decoder3 = UpsamplingBlock(4 * size, 2 * size)
        self.decoder2 = UpsamplingBlock(2 * size, size)
        self.out = OutputBlock(size, classes)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from four maps (B, width * folded_channels, X/16, ...), shallow to deep."""
        merged = [self._merge(index, tokens) for index, tokens in enumerate(maps, start=1)]
        hidden = self.decoder5(merged[3], self.encoder4(merged[2]))
        hidden = self.decoder4(hidden, self.encoder3(merged[1]))
        hidden = self.decoder3(hidden, self.encoder2(merged[0]))
        return self.out(self.decoder2(hidden, self.encoder1(image)))

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
        super().__init__()
        self.feature_model = feature_model
        width, size = feature_model.feature_channels[0], feature_size
        self.encoder1 = EncoderBlock(feature_model.input_channels, size)
        self.encoder2 = EncoderBlock(width, size)
        self.encoder3 = EncoderBlock(width, 2 * size)
        self.encoder4 = EncoderBlock(width, 4 * size)
        self.encoder5 = EncoderBlock(width, 8 * size)
        self.decoder4 = UpsamplingBlock(8 * size, 4 * size)
        self.decoder3 = UpsamplingBlock(4 * size, 2 * size)
        self.decoder2 = UpsamplingBlock(2 * size, size)
        self.decoder1 = UpsamplingBlock(size, size)
        self.out = OutputBlock(size, classes)

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) of ``image`` (B, C, X, Y, Z) of any size."""
        padded = pad_to_multiple(image, self.feature_model.size_multiple)
        half, quarter, eighth, sixteenth = self.feature_model.levels(padded, spacing)
        hidden = self.decoder4(self.encoder5(sixteenth), self.encoder4(eighth))
        hidden = self.decoder3(hidden, self.encoder3(quarter))
        hidden = self.decoder2(hidden, self._encode(half))
        del half, quarter  # the largest tensors, before the full resolution
        scores = self.out(self.decoder1(hidden, self.encoder1(padded)))
        x, y, z = image.shape[-3:]
        return scores[..., :x, :y, :z]

    def _encode(self, half: HalfResolutionMap) -> torch.Tensor:
        block = self.encoder2.layer
        shortcut = block.conv3.conv.weight if block.conv3 else None
        return block.combine(
            half.convolve(block.conv1.conv.weight),
            lambda: half.materialise() if shortcut is None else half.convolve(shortcut),
        )


class ViTAdapterHead(nn.Module):
    """:class:`ViTAdapterUNETR` as a head: all but the ViT, which belongs to the network and is called from here.

    So methods decide about the ViT's parameters (frozen, low-rank updates, all) and about the head's apart from them.

    Args:
        backbone: a ViT, or a one-channel ViT as :class:`fm3d_core.models.channels.FoldedChannels`.
        classes: number of scores per voxel.

    Raises:
        ValueError: the ViT has fewer blocks than the adapter's stages.
    """

    runs_backbone = True

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        vit = backbone.backbone if isinstance(backbone, FoldedChannels) else backbone
        self.network = ViTAdapterUNETR(ViTAdapter(vit, input_channels=backbone.input_channels), classes)
        adapter = self.network.feature_model
        del adapter.vit_model
        adapter.__dict__["vit_model"] = vit  # seen, but not one of the head's modules
        self.size_multiple: Size = adapter.size_multiple

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) of ``image`` (B, C, X, Y, Z); ``spacing`` in mm for rotary positions."""
        return self.network(image, spacing)
