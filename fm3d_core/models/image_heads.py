"""Heads for questions about a whole image: classification, several labels, regression, survival; alone or with voxels.

The head of 3DINO's FLARE 2025 entry: class token of the last layers -> Linear -> GELU -> BatchNorm1d -> Linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fm3d_core.models.linear import Linear
from fm3d_core.models.network import DenseNetwork, pad_to_multiple

if TYPE_CHECKING:
    from fm3d_core.models.rotary import Spacing


class ImageHead(nn.Module):
    """A few numbers from the means of a few maps.

    Args:
        width: channels of all maps together (:func:`pooled_width`).
        outputs: classes, labels, one number (regression), or time bins (survival).
        linear: one linear layer, after a batch norm that brings features of any scale to one (He et al. 2022, linear
            probing of MAE), in place of two layers.
    """

    def __init__(self, width: int, outputs: int, *, linear: bool = False) -> None:
        super().__init__()
        hidden = max(width // 2, 1)
        deep = (Linear(width, hidden), nn.GELU(), nn.BatchNorm1d(hidden), Linear(hidden, outputs))
        self.layers = nn.Sequential(*((nn.BatchNorm1d(width), Linear(width, outputs)) if linear else deep))

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor | None = None) -> torch.Tensor:
        """(B, outputs), without a final activation.

        Args:
            maps: [(B, C_i, X_i, Y_i, Z_i)] of :func:`image_maps`.
            image: not used; heads that need it are called in the same way.
        """
        return self.layers(torch.cat([each.mean(dim=(2, 3, 4)) for each in maps], dim=1))


def pooled_width(backbone: Any, layers: int = 1, mean_patch: bool = False) -> int:
    """Width of :func:`pooled_features`."""
    return sum(map_channels(backbone, layers, mean_patch))


def map_channels(backbone: Any, layers: int = 1, mean_patch: bool = False) -> tuple[int, ...]:
    """Channels of each of :func:`image_maps`."""
    if backbone.kind == "pyramid":
        return tuple(backbone.feature_channels[-layers:])
    return (int(backbone.width),) * (layers + int(mean_patch))


def image_maps(
    backbone: Any, padded: torch.Tensor, layers: int = 1, mean_patch: bool = False, spacing: Spacing | None = None
) -> list[torch.Tensor]:
    """What tells of the whole image: maps whose means over space are its vector.

    Args:
        backbone: a :class:`fm3d_core.models.backbone.Backbone`. Of a ViT the class tokens of the last layers, as maps
            of a single voxel; of a pyramid its coarsest maps.
        padded: (B, C, X, Y, Z), of a size the backbone takes.
        layers: how many.
        mean_patch: a ViT's patch tokens of the last layer as well (3DINO's multilabel head).
        spacing: mm per voxel, for a backbone that needs it.
    """
    spaced = {"spacing": spacing} if getattr(backbone, "needs_spacing", False) else {}
    if backbone.kind == "pyramid":
        return list(backbone.features(padded, **spaced)[-layers:])
    tokens = backbone.intermediate_layers(padded, layers, **spaced)
    maps = [cls[..., None, None, None] for cls, _ in tokens]
    return [*maps, _as_map(backbone, padded, tokens[-1][1])] if mean_patch else maps


def pooled_features(
    backbone: Any, image: torch.Tensor, layers: int = 1, mean_patch: bool = False, spacing: Spacing | None = None
) -> torch.Tensor:
    """One vector per image: (B, :func:`pooled_width`), the means of :func:`image_maps`.

    Args:
        backbone, layers, mean_patch, spacing: as of :func:`image_maps`.
        image: (B, C, X, Y, Z), of any size.
    """
    padded = pad_to_multiple(image, backbone.size_multiple)
    maps = image_maps(backbone, padded, layers, mean_patch, spacing)
    return torch.cat([each.mean(dim=(2, 3, 4)) for each in maps], dim=1)


class ImageNetwork(DenseNetwork):
    """A backbone and an image-level head; takes any size.

    Args:
        backbone: a token or pyramid backbone.
        head: takes (maps, padded image), such as an :class:`ImageHead`.
        layers, mean_patch: as in :func:`image_maps`.
        input_range: as of :class:`fm3d_core.models.network.DenseNetwork`.
    """

    def __init__(
        self,
        backbone: Any,
        head: nn.Module,
        layers: int = 1,
        mean_patch: bool = False,
        input_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__(backbone, head, input_range)
        self.layers, self.mean_patch = layers, mean_patch

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map that the head takes."""
        return map_channels(self.backbone, self.layers, self.mean_patch)

    @property
    def adapted_map(self) -> int:
        """The last."""
        return len(self.map_channels) - 1

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """(B, outputs) of ``image`` (B, C, X, Y, Z); ``spacing`` in mm, (3,) or (B, 3)."""
        padded = self.prepare(image)
        return self.head(self.features(padded, spacing), padded)

    def features(self, padded: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """:func:`image_maps` of what :meth:`prepare` gave."""
        return image_maps(self.backbone, padded, self.layers, self.mean_patch, spacing)


class JointHead(nn.Module):
    """Scores per voxel and of the whole image.

    Args:
        dense: takes (maps, padded image).
        image: takes the last map, which tells of the whole image.
    """

    def __init__(self, dense: nn.Module, image: ImageHead) -> None:
        super().__init__()
        self.dense, self.image = dense, image

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, classes, X, Y, Z) at the size of ``image``, and (B, outputs)."""
        return self.dense(maps[:-1], image), self.image(maps[-1:])


class JointNetwork(DenseNetwork):
    """Voxels and the whole image from one pass of the backbone: segmentation and classification.

    Its head is a :class:`JointHead`; the whole image is told by a ViT's class token or a pyramid's coarsest map.
    """

    def forward(  # type: ignore[override]  # two answers are what it is for
        self, image: torch.Tensor, spacing: Spacing | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, classes, X, Y, Z) and (B, outputs) of ``image`` (B, C, X, Y, Z) of any size."""
        padded = self.prepare(image)
        voxels, whole = self.head(self.features(padded, spacing), padded)
        x, y, z = image.shape[-3:]
        return voxels[..., :x, :y, :z], whole

    def features(self, padded: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """The backbone's maps, and at last the one of the whole image."""
        if self.backbone.kind == "pyramid":
            maps = super().features(padded, spacing)
            return [*maps, maps[-1]]
        spaced = {"spacing": spacing} if getattr(self.backbone, "needs_spacing", False) else {}
        tokens = self.backbone.intermediate_layers(padded, self.backbone.feature_layers, **spaced)
        maps = [_as_map(self.backbone, padded, patches) for _, patches in tokens]
        return [*maps, tokens[-1][0][..., None, None, None]]  # the last feature layer is the last of all


def _as_map(backbone: Any, padded: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Patch tokens (B, N, C) as (B, C, X/p, Y/p, Z/p)."""
    return patches.transpose(1, 2).unflatten(2, backbone.grid_of(padded))
