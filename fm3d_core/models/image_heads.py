"""Heads for questions about a whole image: classification, several labels, regression, survival; alone or with voxels.

The head of 3DINO's FLARE 2025 entry: class token of the last layers -> Linear -> GELU -> BatchNorm1d -> Linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fm3d_core.models.linear import Linear
from fm3d_core.models.network import pad_to_multiple


class ImageHead(nn.Module):
    """A few numbers from one feature vector per image.

    Args:
        width: of the vector (:func:`pooled_width`).
        outputs: classes, labels, one number (regression), or time bins (survival).
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        hidden = max(width // 2, 1)
        self.layers = nn.Sequential(Linear(width, hidden), nn.GELU(), nn.BatchNorm1d(hidden), Linear(hidden, outputs))

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """(B, width) -> (B, outputs), without a final activation."""
        return self.layers(vector)


def pooled_width(backbone: Any, layers: int = 1, mean_patch: bool = False) -> int:
    """Width of :func:`pooled_features`."""
    if backbone.kind == "pyramid":
        return sum(backbone.feature_channels[-layers:])
    return int(backbone.width) * (layers + int(mean_patch))


def pooled_features(backbone: Any, image: torch.Tensor, layers: int = 1, mean_patch: bool = False) -> torch.Tensor:
    """One vector per image: (B, :func:`pooled_width`).

    Args:
        backbone: a :class:`fm3d_core.models.backbone.Backbone`. Of a ViT the class tokens of the last layers; of a
            pyramid the means of its coarsest maps.
        image: (B, C, X, Y, Z), of any size.
        layers: how many.
        mean_patch: a ViT's mean patch token of the last layer as well (3DINO's multilabel head).
    """
    padded = pad_to_multiple(image, backbone.size_multiple)
    if backbone.kind == "pyramid":
        return torch.cat([maps.mean(dim=(2, 3, 4)) for maps in backbone.features(padded)[-layers:]], dim=1)
    tokens = backbone.intermediate_layers(padded, layers)
    return _pooled(tokens, mean_patch)


def _pooled(tokens: Sequence[tuple[torch.Tensor, torch.Tensor]], mean_patch: bool) -> torch.Tensor:
    vectors = [cls for cls, _ in tokens]
    if mean_patch:
        vectors.append(tokens[-1][1].mean(dim=1))
    return torch.cat(vectors, dim=1)


class ImageNetwork(nn.Module):
    """A backbone and an image-level head; takes any size.

    Args:
        backbone: a token or pyramid backbone.
        outputs: numbers per image.
        layers, mean_patch: as in :func:`pooled_features`.
    """

    def __init__(self, backbone: Any, outputs: int, layers: int = 1, mean_patch: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers, self.mean_patch = layers, mean_patch
        self.head = ImageHead(pooled_width(backbone, layers, mean_patch), outputs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, outputs) of ``image`` (B, C, X, Y, Z)."""
        return self.head(pooled_features(self.backbone, image, self.layers, self.mean_patch))


class JointNetwork(nn.Module):
    """Voxels and the whole image from one pass of the backbone: segmentation and classification.

    Args:
        backbone: a token or pyramid backbone.
        dense_head: takes (maps, padded image) and returns scores per voxel at the padded image's size.
        outputs: numbers per image.
    """

    def __init__(self, backbone: Any, dense_head: nn.Module, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = dense_head
        self.image_head = ImageHead(pooled_width(backbone), outputs)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, classes, X, Y, Z) and (B, outputs) of ``image`` (B, C, X, Y, Z) of any size."""
        padded = pad_to_multiple(image, self.backbone.size_multiple)
        if self.backbone.kind == "pyramid":
            maps = self.backbone.features(padded)
            vector = maps[-1].mean(dim=(2, 3, 4))
        else:
            grid = self.backbone.grid_of(padded)
            layers = self.backbone.intermediate_layers(padded, self.backbone.feature_layers)
            maps = [patches.transpose(1, 2).unflatten(2, grid) for _, patches in layers]
            vector = _pooled(layers[-1:], mean_patch=False)  # the last of the feature layers is the last of all
        x, y, z = image.shape[-3:]
        return self.head(maps, padded)[..., :x, :y, :z], self.image_head(vector)
