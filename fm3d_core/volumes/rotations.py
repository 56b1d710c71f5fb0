"""Rotations about the axes of an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def turned(matrix: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """A linear map (3, 3) followed by rotations about the first, the second and then the third axis.

    A positive angle turns the lower of the two other axes towards the higher one.

    Args:
        matrix: (3, 3) float32.
        angles: (3,) radians, float32.
    """
    import torch

    cosine, sine = torch.cos(angles), torch.sin(angles)
    for axis in range(3):
        i, j = [other for other in range(3) if other != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = cosine[axis]
        turn[i, j], turn[j, i] = -sine[axis], sine[axis]
        matrix = turn @ matrix
    return matrix
