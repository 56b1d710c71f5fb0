"""The convolutional half of the ViT-Adapter (Chen et al. 2023): what a ViT's large patches do not see."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class SpatialPrior(nn.Module):
    """A small convolutional pyramid of the image itself, at 1/2, 1/4, 1/8 and 1/16 of its size."""

    def __init__(self, input_channels: int, prior_width: int, width: int) -> None:
        super().__init__()
        channels = [prior_width, 2 * prior_width, 4 * prior_width, 4 * prior_width]
        self.stem = nn.Sequential(
            *_convolution(input_channels, prior_width, stride=2),
            *_convolution(prior_width, prior_width, stride=1),
            *_convolution(prior_width, prior_width, stride=1),
        )
        self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(*_convolution(a, b, stride=2)) for a, b in pairwise(channels)
        )
        self.fc1, self.fc2, self.fc3, self.fc4 = (nn.Conv3d(inner, width, kernel_size=1) for inner in channels)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The stem's map (B, prior_width, X/2, Y/2, Z/2), and the maps (B, width, ...) at 1/4, 1/8 and 1/16."""
        half = self.stem(image)
        quarter = self.conv2(half)
        eighth = self.conv3(quarter)
        sixteenth = self.conv4(eighth)
        return half, [self.fc2(quarter), self.fc3(eighth), self.fc4(sixteenth)]


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv3d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)]
