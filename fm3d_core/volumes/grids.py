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

    def to_original(self, values: torch.Tensor) -> torch.Tensor:
        """Float values on the crop -> at the original voxels :meth:`inside` of it, trilinearly."""
        from torch.nn.functional import pad

        if self.original == self.resampled:
            return values
        beyond = [(self.start[axis], self.resampled[axis] - self.stop[axis]) for axis in (2, 1, 0)]  # pad's order
        whole = pad(values[None, None], [side for sides in beyond for side in sides], mode="replicate")[0, 0]
        return trilinear(whole, self.original)[self.inside()]


def resampled_shape(shape: Shape, spacing: tuple[float, ...], wanted: tuple[float, ...]) -> Shape:
    """The whole number of voxels per axis that comes nearest to the ``wanted`` spacing in the same field of view."""
    x, y, z = (max(1, round(n * now / then)) for n, now, then in zip(shape, spacing, wanted, strict=True))
    return x, y, z


def centres(count: int, other: int) -> npt.NDArray[np.float64]:
    """Where the centres of ``count`` voxels lie, in voxels of a division of the same length into ``other``."""
    if count == other:
        return np.arange(count, dtype=np.float64)
    return (np.arange(count) + 0.5) * (other / count) - 0.5


def trilinear(values: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(X, Y, Z) float values on a grid of ``shape`` in the same field of view; beyond the outer centres they go on."""
    from torch.nn.functional import interpolate

    if tuple(values.shape) == shape:
        return values
    return interpolate(values[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]


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


def nearest_known(values: Array, shape: Shape, ignored: int) -> Array:
    """As :func:`nearest`, but what is ``ignored`` gives way to a known voxel of the same new voxel.

    On a coarser grid the nearest voxels leave slices out, and single annotated ones would be lost. Where the nearest is
    ignored, those before and behind it along one axis are taken if they lie in the new voxel too.
    """
    result = nearest(values, shape)
    if values.shape == shape or not (values == ignored).any():
        return result
    middle = [
        np.floor(centres(count, other) + 0.5).astype(np.int64).clip(0, other - 1)
        for count, other in zip(shape, values.shape, strict=True)
    ]
    for axis, (count, other) in enumerate(zip(shape, values.shape, strict=True)):
        half = other / count / 2
        for distance in range(1, int(half + 0.5) + 1):
            for step in (-distance, distance):
                moved = (middle[axis] + step).clip(0, other - 1)
                inside = np.abs(moved - centres(count, other)) < half
                places = [np.where(inside, moved, middle[axis]) if each == axis else middle[each] for each in range(3)]
                candidate = values[np.ix_(*places)]
                result = np.where(result == ignored, candidate, result)
    return result
