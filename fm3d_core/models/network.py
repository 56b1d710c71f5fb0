"""A backbone and a head as one module that takes any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from fm3d_core.models.rotary import Spacing

BACKGROUND = -1.0  # of the scaled image


class DenseNetwork(nn.Module):
    """Scores for every voxel: pads the image to a size the backbone takes, runs backbone and head, cuts the padding.

    Args:
        backbone: a :class:`fm3d_core.models.backbone.Backbone`.
        head: takes (maps, padded image) and returns scores at the padded image's size; or, with an attribute
            ``runs_backbone`` that is true, takes (padded image, spacing) and calls the backbone's parts itself.
        input_range: what backbone and head are given for -1 and 1 of the scaled image
            (:attr:`fm3d_core.volumes.Preprocessing.input_range`).
    """

    def __init__(self, backbone: Any, head: nn.Module, input_range: tuple[float, float] = (-1.0, 1.0)) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_range = input_range

    @property
    def runs_backbone(self) -> bool:
        """Whether the head calls the backbone's parts itself, so that features cannot be computed ahead of it."""
        return bool(getattr(self.head, "runs_backbone", False))

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """What each size of a padded image is a multiple of."""
        owner = self.head if self.runs_backbone else self.backbone
        x, y, z = owner.size_multiple  # type: ignore[misc]
        return x, y, z

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map that the head takes."""
        return tuple(self.backbone.feature_channels)

    @property
    def adapted_map(self) -> int:
        """The map that a :class:`fm3d_core.models.heads.AdaptedHead` changes.

        The finest of a pyramid, as FSEFT has it; of a ViT's maps, all alike in size, the deepest.
        """
        return 0 if self.backbone.kind == "pyramid" else len(self.backbone.feature_channels) - 1

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z).

        Args:
            image: (B, C, X, Y, Z), scaled to [-1, 1].
            spacing: mm per voxel, (3,) or (B, 3); backbones that do not need it ignore it.
        """
        padded = self.prepare(image)
        scores = self.head(padded, spacing) if self.runs_backbone else self.head(self.features(padded, spacing), padded)
        x, y, z = image.shape[-3:]
        return scores[..., :x, :y, :z]

    def features(self, padded: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """The backbone's maps of what :meth:`prepare` gave."""
        needs_spacing = getattr(self.backbone, "needs_spacing", False)
        return self.backbone.features(padded, spacing=spacing) if needs_spacing else self.backbone.features(padded)

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """``image`` at the next size the backbone takes, in the range of intensities that it expects."""
        multiple = self.size_multiple if self.runs_backbone else allowed_multiple(self.backbone, image.shape[-3:])
        padded = pad_to_multiple(image, multiple)
        low, high = self.input_range
        return padded if (low, high) == (-1.0, 1.0) else (padded + 1) * ((high - low) / 2) + low


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
    """Append background until each size is a multiple of ``multiple``."""
    missing = [-size % step for size, step in zip(image.shape[-3:], multiple, strict=True)]
    if not any(missing):
        return image
    return F.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]), value=BACKGROUND)
