"""Heads for dense predictions on a backbone's feature maps; they return scores at the image's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class LinearHead(nn.Module):
    """One linear classifier over all maps: 1x1x1 on each map, upsampled trilinearly and added.

    The same function as a classifier on the concatenation of the upsampled maps, without ever holding them.

    Args:
        feature_channels: channels of each map, finest first.
        classes: number of scores per voxel.
    """

    def __init__(self, feature_channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Conv3d(channels, classes, kernel_size=1, bias=index == 0)
            for index, channels in enumerate(feature_channels)
        )

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z) from maps [(B, C_i, X/s_i, Y/s_i, Z/s_i)] of ``image`` (B, C, X, Y, Z)."""
        # from coarse to fine, so that each upsampling works on few channels and the smallest grid possible
        total: torch.Tensor | None = None
        for features, classifier in sorted(
            zip(maps, self.classifiers, strict=True), key=lambda pair: pair[0].shape[-3:].numel()
        ):
            scores = classifier(features)
            if total is not None:
                scores = scores + _resize(total, scores.shape[-3:])
            total = scores
        assert total is not None
        return _resize(total, image.shape[-3:])


def _resize(scores: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if scores.shape[-3:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="trilinear", align_corners=False)
