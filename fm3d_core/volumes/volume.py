"""The Volume: a 3D image in RAS with its affine, and the exact way back to the grid of the file it came from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.volumes.names import case_name

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SourceGrid:
    """The voxel grid as it lies in the file.

    Attributes:
        path: the file, or the folder of a DICOM series.
        shape: voxels along the file's own three axes.
        affine: (4, 4), the file's voxel index -> RAS+ world in mm.
        orientation: (3, 2) integers as in ``nibabel.orientations``: row i says on which RAS axis the file's axis i
            lies, and 1 or -1 for its direction.
        nifti_geometry: the header fields that place a NIfTI file in space, so that a label can be written with the
            same ones; None for other formats.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: Affine
    orientation: npt.NDArray[np.int64]
    nifti_geometry: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Volume:
    """A 3D image in canonical (RAS) axis order: x grows to the patient's right, y to the front, z to the head.

    An oblique image keeps its oblique affine: axes are permuted and flipped, never resampled.

    Attributes:
        array: (X, Y, Z); float32 for images, uint8 for labels.
        affine: (4, 4) float64, voxel index -> RAS+ world in mm, of ``array``.
        source: the file's own grid.
        others: further channels on the same grid; ``array`` is the first.
    """

    array: Array
    affine: Affine
    source: SourceGrid
    others: tuple[Array, ...] = ()

    @classmethod
    def from_array(
        cls,
        array: Array,
        affine: npt.ArrayLike,
        path: str | Path,
        *,
        nifti_geometry: Mapping[str, Any] | None = None,
    ) -> Volume:
        """Make a Volume of an (X, Y, Z) array that lies in any axis order, as its ``affine`` (to RAS+ mm) says."""
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

        affine = np.asarray(affine, dtype=np.float64)
        orientation = io_orientation(affine).astype(np.int64)
        canonical = np.ascontiguousarray(apply_orientation(array, orientation))
        x, y, z = array.shape
        source = SourceGrid(Path(path), (x, y, z), affine, orientation, nifti_geometry)
        return cls(canonical, affine @ inv_ornt_aff(orientation, array.shape), source)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the RAS axes, in mm."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def channels(self) -> tuple[Array, ...]:
        """All channels, each (X, Y, Z)."""
        return (self.array, *self.others)

    @property
    def name(self) -> str:
        """The case's name: the file name without its image suffix."""
        return case_name(self.source.path)

    def to_source(self, array: Array) -> Array:
        """Bring an array on this RAS grid into the file's own axis order and directions; no value changes.

        Args:
            array: (X, Y, Z), the shape of ``self.array``.
        """
        if array.shape != self.array.shape:
            raise ValueError(f"array has shape {array.shape}, the volume {self.array.shape}")
        axes, directions = self.source.orientation.T
        flipped = tuple(axis for axis in range(3) if directions[axis] < 0)
        return np.flip(np.transpose(array, axes), flipped)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """The lengths of an affine's three axes: the voxel size in mm."""
    x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def shear_of(affine: Affine) -> float:
    """The largest cosine between two voxel axes: 0 for a rectangular grid."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def largest_distance(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """How far, in mm, two affines place the same voxel apart at most: affine maps differ most at a corner."""
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*((0, size - 1) for size in shape[:3]))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
