"""Images of several channels: one file each, or the frames of a 4D file, on the grid of the first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fm3d_core.errors import VolumeError
from fm3d_core.volumes.labels import GRID_TOLERANCE
from fm3d_core.volumes.reading import inspect_header, read_volume
from fm3d_core.volumes.volume import Array, Volume, largest_distance

logger = logging.getLogger(__name__)
LEAST_COVERED = 0.5  # of the first channel's voxels must lie in each other channel
_STRIDE = 4  # every fourth voxel along each axis tells how much is covered


def read_channels(paths: Sequence[str | Path], channels: int | None = None) -> Volume:
    """Read the channels of one image, the others resampled onto the first one's grid if they lie on another.

    Args:
        paths: one file per channel in order; or one 4D file, whose frames are the channels.
        channels: how many there must be; None: as many as ``paths``.

    Raises:
        VolumeError: as of :func:`fm3d_core.volumes.read_volume`; another number of channels; a channel that shows
            another part of the body than the first.
    """
    files = [Path(path) for path in paths]
    wanted = len(files) if channels is None else channels
    if len(files) == 1 and wanted > 1:
        frames = inspect_header(files[0]).frames
        if frames != wanted:
            raise VolumeError(
                f"holds {frames} frame{'s' * (frames > 1)}, {wanted} channels are expected",
                path=files[0],
                remedy="Give a file for each channel, or one 4D file with all of them",
            )
        volumes = [read_volume(files[0], frame=frame) for frame in range(wanted)]
    elif len(files) == wanted and files:
        volumes = [read_volume(path) for path in files]
    else:
        raise VolumeError(
            f"has {len(files)} image files, {wanted} channels are expected",
            path=files[0] if files else None,
            remedy="Give a file for each channel, in the same order for all cases",
        )
    first, *rest = volumes
    return replace(first, others=tuple(_on_grid_of(first, other) for other in rest))


def _on_grid_of(first: Volume, other: Volume) -> Array:
    """The values of ``other`` at the voxels of ``first``, trilinearly; its smallest value where it does not reach."""
    same = first.shape == other.shape
    if same and largest_distance(first.affine, other.affine, first.shape) <= GRID_TOLERANCE:
        return other.array
    from scipy.ndimage import affine_transform

    to_other = np.linalg.inv(other.affine) @ first.affine
    covered = _covered(to_other, first.shape, other.shape)
    if covered < LEAST_COVERED:
        raise VolumeError(
            f"shows another part of the body than {first.source.path.name}: only {covered:.0%} of that is in it",
            path=other.source.path,
            remedy="Check that both are of one patient and lie in the same space, or register them first",
        )
    logger.info("%s is resampled onto the grid of %s", other.source.path, first.source.path.name)
    moved: Array = affine_transform(
        other.array,
        to_other[:3, :3],
        to_other[:3, 3],
        output_shape=first.shape,
        order=1,
        mode="constant",
        cval=float(other.array.min()),
    )
    return np.ascontiguousarray(moved, dtype=np.float32)


def _covered(to_other: Array, shape: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The share of a grid's voxels that lie in the field of view of another."""
    axes = [np.arange(0, size, _STRIDE) for size in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    there = places @ to_other[:3, :3].T + to_other[:3, 3]
    inside = (there >= -0.5) & (there <= np.array(other) - 0.5)
    return float(inside.all(axis=1).mean())
