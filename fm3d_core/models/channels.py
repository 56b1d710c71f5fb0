"""Images of several channels through a backbone of one: channels go into the batch, their features are merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from fm3d_core.models.backbone import Size
from fm3d_core.models.rotary import Spacing


def fold_channels(image: torch.Tensor) -> torch.Tensor:
    """Each channel as an image of its own: (B, C, X, Y, Z) -> (B * C, 1, X, Y, Z)."""
    return image.flatten(0, 1).unsqueeze(1)


def unfold_channels(maps: torch.Tensor, channels: int) -> torch.Tensor:
    """Features of folded channels side by side: (B * channels, W, X, Y, Z) -> (B, channels * W, X, Y, Z)."""
    return maps.unflatten(0, (-1, channels)).flatten(1, 2)


def fold_spacing(spacing: Spacing, channels: int) -> torch.Tensor:
    """The spacing of each folded channel: (3,) stays, (B, 3) -> (B * channels, 3)."""
    millimetres = torch.as_tensor(spacing, dtype=torch.float32)
    return millimetres if millimetres.ndim == 1 else millimetres.repeat_interleave(channels, dim=0)


class FoldedChannels(nn.Module):
    """A one-channel backbone as one of ``channels``; a map has the features of all channels side by side.

    Args:
        backbone: a :class:`fm3d_core.models.backbone.Backbone` of one input channel.
        channels: of the image.

    Raises:
        ValueError: the backbone takes another number of channels than one.
    """

    def __init__(self, backbone: Any, channels: int) -> None:
        super().__init__()
        if backbone.input_channels != 1:
            raise ValueError(
                f"only a one-channel backbone sees channels one by one, not one of {backbone.input_channels}"
            )
        self.backbone = backbone
        self.input_channels = self.folded_channels = channels
        self.kind: Literal["tokens", "pyramid"] = backbone.kind
        self.feature_channels = tuple(channels * width for width in backbone.feature_channels)
        self.feature_strides: tuple[Size, ...] = backbone.feature_strides
        self.size_multiple: Size = backbone.size_multiple
        self.needs_spacing = bool(getattr(backbone, "needs_spacing", False))
        self.config: dict[str, Any] = {**backbone.config, "folded_channels": channels}

    def features(self, image: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """Maps (B, channels * C_i, X/s_i, Y/s_i, Z/s_i) of ``image`` (B, channels, X, Y, Z).

        Args:
            image: as above.
            spacing: mm per voxel, (3,) or (B, 3), for a backbone that needs it.
        """
        folded = fold_channels(image)
        if self.needs_spacing and spacing is not None:
            spacing = fold_spacing(spacing, self.input_channels)
        maps = self.backbone.features(folded, spacing=spacing) if self.needs_spacing else self.backbone.features(folded)
        return [unfold_channels(of_all, self.input_channels) for of_all in maps]

    @property
    def width(self) -> int:
        """Of a ViT's tokens, those of all channels side by side."""
        return self.input_channels * int(self.backbone.width)

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Those of a ViT."""
        return tuple(self.backbone.feature_layers)

    def grid_of(self, image: torch.Tensor) -> Size:
        """A ViT's patches along each axis of ``image``."""
        grid: Size = self.backbone.grid_of(fold_channels(image))
        return grid

    def intermediate_layers(
        self, image: torch.Tensor, layers: int | Sequence[int], spacing: Spacing | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A ViT's class token (B, channels * C) and patch tokens (B, N, channels * C) of the last ``layers`` blocks."""
        spaced: dict[str, Any] = {}
        if self.needs_spacing and spacing is not None:
            spaced["spacing"] = fold_spacing(spacing, self.input_channels)
        found = []
        for cls, patches in self.backbone.intermediate_layers(fold_channels(image), layers, **spaced):
            of_all = patches.unflatten(0, (-1, self.input_channels))  # (B, channels, N, C)
            side_by_side = of_all.transpose(1, 2).flatten(2)
            found.append((cls.unflatten(0, (-1, self.input_channels)).flatten(1), side_by_side))
        return found

    def lora_targets(self) -> list[str]:
        """Those of the backbone."""
        return [f"backbone.{name}" for name in self.backbone.lora_targets()]

    def parts(self) -> dict[str, list[str]]:
        """Those of the backbone."""
        return {part: [f"backbone.{name}" for name in names] for part, names in self.backbone.parts().items()}
