"""Resampling between two grids that share one field of view, and the crop inside one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.volumes.volume import Array

if TYPE_CHECKING:
    import torch

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class PreparedGrid:
    """Where a prepared image lies in the volume it was made of.

    The volume's box (its field of view) is divided anew into ``resampled`` voxels, of which the box from ``start``
    to ``stop`` is kept. Because both grids fill the same box, the way back is exact: no voxel is half outside.

    Attributes:
        original: the volume's shape.
        resampled: the shape at the new spacing.
        start, stop: the crop in the resampled grid.
    """

    original: Shape
    resampled: Shape
    start: Shape
    stop: Shape

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The crop as slices of the resampled grid."""
        x, y, z = (slice(*ends) for ends in zip(self.start, self.stop, strict=True))
        return x, y, z

    def inside(self) -> tuple[slice, slice, slice]:
        """The original voxels whose centre lies in the crop, as slices of the original grid."""
        slices = []
        for axis in range(3):
            places = centres(self.original[axis], self.resampled[axis])
            kept = np.flatnonzero((places > self.start[axis] - 0.5) & (places < self.stop[axis] - 0.5))
            slices.append(slice(int(kept[0]), int(kept[-1]) + 1) if kept.size else slice(0, 0))
        return slices[0], slices[1], slices[2]


def resampled_shape(shape: Shape, spacing: tuple[float, ...], wanted: tuple[float, ...]) -> Shape:
    """The whole number of voxels per axis that comes nearest to the ``wanted`` spacing in the same field of view."""
    x, y, z = (max(1, round(n * now / then)) for n, now, then in zip(shape, spacing, wanted, strict=True))
    return x, y, z


def centres(count: int, other: int) -> npt.NDArray[np.float64]:
    """Where the centres of ``count`` voxels lie, in voxels of a division of the same length into ``other``."""
    if count == other:
        return np.arange(count, dtype=np.float64)
    return (np.arange(count) + 0.5) * (other / count) - 0.5


def linear(values: torch.Tensor, places: tuple[npt.NDArray[np.float64], ...]) -> torch.Tensor:
    """Trilinear values at the product grid of three lists of positions, one axis after the other.

    Positions beyond the outermost voxel centres take the value there. Axes with positions 0, 1, 2, ... are untouched.

    Args:
        values: (X, Y, Z) float.
        places: three arrays of positions, in voxels of ``values``.
    """
    import torch

    # The axis that shrinks most goes first: less work for the next ones.
    for axis in sorted(range(3), key=lambda axis: len(places[axis]) / values.shape[axis]):
        size, place = values.shape[axis], places[axis]
        if len(place) == size and np.array_equal(place, np.arange(size)):
            continue
        place = place.clip(0, size - 1)
        low = np.floor(place).astype(np.int64)
        weight = torch.from_numpy((place - low).astype(np.float32)).to(values.device)
        weight = weight.reshape([-1 if other == axis else 1 for other in range(3)])
        below = values.index_select(axis, torch.from_numpy(low).to(values.device))
        above = values.index_select(axis, torch.from_numpy(np.minimum(low + 1, size - 1)).to(values.device))
        values = below.lerp_(above, weight.to(values.dtype))
    return values


def nearest(values: Array, shape: Shape) -> Array:
    """The nearest voxel of ``values`` for each voxel of a grid of ``shape`` in the same field of view."""
    if values.shape == shape:
        return values
    places = (
        np.floor(centres(count, other) + 0.5).astype(np.int64).clip(0, other - 1)
        for count, other in zip(shape, values.shape, strict=True)
    )
    result: Array = values[np.ix_(*places)]
    return result
