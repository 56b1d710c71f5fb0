"""A backbone and a head as one module that takes any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class DenseNetwork(nn.Module):
    """Scores for every voxel: pads the image to a size the backbone takes, runs backbone and head, cuts the padding.

    Args:
        backbone: a :class:`fm3d_core.models.backbone.Backbone`.
        head: takes (maps, padded image) and returns scores at the padded image's size.
    """

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) of ``image`` (B, C, X, Y, Z)."""
        padded = self.pad(image)
        scores = self.head(self.backbone.features(padded), padded)
        x, y, z = image.shape[-3:]
        return scores[..., :x, :y, :z]

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """``image`` at the next size the backbone takes."""
        return pad_to_multiple(image, allowed_multiple(self.backbone, image.shape[-3:]))


def allowed_multiple(backbone: Any, size: tuple[int, ...]) -> tuple[int, int, int]:
    """What each size of an image of ``size`` voxels must be a multiple of.

    That is the backbone's own multiple, or twice as much where the coarsest map of a pyramid would be a single voxel:
    instance and batch norm need more than one value per channel.
    """
    x, y, z = backbone.size_multiple
    coarsest = backbone.feature_strides[-1]
    if backbone.kind == "pyramid" and all(length <= step for length, step in zip(size, coarsest, strict=True)):
        return 2 * x, 2 * y, 2 * z
    return x, y, z


def pad_to_multiple(image: torch.Tensor, multiple: tuple[int, int, int]) -> torch.Tensor:
    """Append voxels of -1, the background of the scaled image, until each size is a multiple of ``multiple``."""
    missing = [-size % step for size, step in zip(image.shape[-3:], multiple, strict=True)]
    if not any(missing):
        return image
    return F.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]), value=-1.0)
