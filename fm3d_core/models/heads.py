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


class KnownClassesHead(nn.Module):
    """A classifier of more classes than are asked for: the others count as background.

    A voxel is background with the sum of the probabilities of all that was not asked for: the exact answer of the whole
    classifier, of which one row called background would be a part only.

    Args:
        channels: of the finest map, on which the classifier works; other maps are not used.
        structures: number of classes asked for.
        others: number of further rows, at least one.
    """

    def __init__(self, channels: int, structures: int, others: int) -> None:
        super().__init__()
        self.structures = nn.Conv3d(channels, structures, kernel_size=1)
        self.others = nn.Conv3d(channels, others, kernel_size=1)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, 1 + structures, X, Y, Z); see :class:`LinearHead`."""
        background = self.others(maps[0]).float().logsumexp(dim=1, keepdim=True)
        return _resize(torch.cat([background, self.structures(maps[0]).float()], dim=1), image.shape[-3:])


class ResidualAdapter(nn.Module):
    """``x + C2(ReLU(C1(x)))`` with convolutions without bias; the identity at the start, where C2 is zero.

    FSEFT's adapter of features (Silva-Rodriguez et al. 2023), which has as many hidden channels as its 48 features.

    Args:
        channels: of the features.
        kernel_size: of both convolutions, odd.
    """

    MOST_HIDDEN = 48  # a wide map, such as a ViT's, would make a large file otherwise

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        hidden, padding = min(channels, self.MOST_HIDDEN), kernel_size // 2
        self.first = nn.Conv3d(channels, hidden, kernel_size, padding=padding, bias=False)
        self.second = nn.Conv3d(hidden, channels, kernel_size, padding=padding, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels, X, Y, Z), as it came in."""
        return features + self.second(F.relu(self.first(features)))


class AdaptedHead(nn.Module):
    """A head that sees one of the maps through a :class:`ResidualAdapter`.

    Args:
        head: takes (maps, image).
        channels: of the map that is adapted.
        index: of that map.
        kernel_size: of the adapter.
    """

    def __init__(self, head: nn.Module, channels: int, index: int, kernel_size: int) -> None:
        super().__init__()
        self.adapter = ResidualAdapter(channels, kernel_size)
        self.head = head
        self.index = index

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z); see :class:`LinearHead`."""
        return self.head(self.adapted(maps), image)

    def adapted(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The maps as the inner head sees them."""
        return [self.adapter(each) if i == self.index else each for i, each in enumerate(maps)]


def _resize(scores: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if scores.shape[-3:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="trilinear", align_corners=False)
