"""The part of a volume that is worked on, and the grid it is worked on: coarser for large parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.inference.interactive.prompts import Index
from fm3d_core.volumes.grids import resampled_shape

if TYPE_CHECKING:
    import torch

VOXELS = 96**3  # at most, of the working grid: what two seconds on one core allow
_COARSER = 1.03  # factor between spacings that are tried


@dataclass(frozen=True)
class Region:
    """A box of voxels and a grid of ``shape`` voxels in the same field of view.

    Attributes:
        start, stop: the box in the volume's voxels, half open.
        shape: of the working grid.
        spacing: of the working grid, mm.
    """

    start: Index
    stop: Index
    shape: Index
    spacing: tuple[float, float, float]

    @classmethod
    def of(
        cls, start: Sequence[int], stop: Sequence[int], spacing: tuple[float, float, float], voxels: int = VOXELS
    ) -> Region:
        """The box with a grid of at most ``voxels``: the volume's own, or as coarse and as even as it must be.

        Args:
            start, stop: the box in voxels of the volume, half open.
            spacing: of the volume, mm.
            voxels: limit of the working grid.
        """
        first, last = _index(start), _index(stop)
        size = _index([high - low for low, high in zip(first, last, strict=True)])
        shape, edge = size, min(spacing)
        while np.prod(shape) > voxels:
            edge *= _COARSER
            coarse = [max(edge, own) for own in spacing]
            shape = resampled_shape(size, spacing, (coarse[0], coarse[1], coarse[2]))
        x, y, z = (own * count / new for own, count, new in zip(spacing, size, shape, strict=True))
        return cls(first, last, shape, (x, y, z))

    @property
    def size(self) -> Index:
        """Voxels of the volume along each axis."""
        return _index([high - low for low, high in zip(self.start, self.stop, strict=True)])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box in the volume's arrays."""
        x, y, z = (slice(*ends) for ends in zip(self.start, self.stop, strict=True))
        return x, y, z

    def contains(self, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of (n, 3) voxels of the volume lie in the box."""
        inside: npt.NDArray[np.bool_] = ((voxels >= self.start) & (voxels < self.stop)).all(axis=1)
        return inside

    def working(self, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The voxels (n, 3) of the working grid that hold the centres of those voxels of the volume in the box."""
        inside = voxels[self.contains(voxels)] - self.start
        scale = np.array(self.shape) / np.array(self.size)
        return np.minimum(((inside + 0.5) * scale).astype(np.int64), np.array(self.shape) - 1)

    def mask(self, voxels: npt.NDArray[np.int64]) -> Mask:
        """The same as a mask of the working grid."""
        mask = np.zeros(self.shape, bool)
        mask[tuple(self.working(voxels).T)] = True
        return mask

    def coarse(self, array: npt.NDArray[np.generic]) -> Field:
        """An array of the whole volume on the working grid, averaged over what falls into a voxel there."""
        from torch.nn.functional import interpolate

        values = _tensor(array[self.slices])
        if self.shape != self.size:
            values = interpolate(values, size=self.shape, mode="area")
        result: Field = values[0, 0].numpy()
        return result

    def fine(self, values: Field) -> Field:
        """Values of the working grid on the volume's voxels of the box, trilinearly."""
        from torch.nn.functional import interpolate

        if self.shape == self.size:
            return values
        result: Field = interpolate(_tensor(values), size=self.size, mode="trilinear", align_corners=False)[
            0, 0
        ].numpy()
        return result


def _tensor(array: npt.NDArray[np.generic]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]


def _index(numbers: Sequence[int]) -> Index:
    x, y, z = (int(number) for number in numbers)
    return x, y, z
