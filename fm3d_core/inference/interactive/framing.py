"""Which part of a volume is worked on: around the prompts, larger where the structure reaches the border."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.inference.interactive.prompts import VoxelPrompts
from fm3d_core.inference.interactive.region import Region
from fm3d_core.volumes import Volume

MARGIN = 28  # voxels of the finest spacing around the prompts, at first
GROWTHS = 3  # times the margin doubles when the structure reaches the region's border
BOX_MARGIN = 0.25  # of the box's size around it, so that the classifier sees what the structure is not
FAINT = 0.3  # probability from which the region must hold what was drawn
FINE_MARGIN, FINE_VOXELS = 0.1, 6  # of the size of what was drawn, and voxels of the finest spacing, around it
STEP = 8  # voxels: regions begin and end at multiples, so that a click seldom needs new features


def regions_around(
    volume: Volume,
    said: VoxelPrompts,
    limits: tuple[npt.NDArray[np.int64], ...],
    start: npt.NDArray[np.generic] | None,
    most: int,
) -> Iterator[Region]:
    """The region around the prompts, then larger ones, up to the limits, each with at most ``most`` voxels."""
    if said.start is not None and said.stop is not None:
        first, last = np.array(said.start), np.array(said.stop)
        around = np.ceil((last - first) * BOX_MARGIN).astype(int) + 4
        yield Region.of(*_cut(first - around, last + around, limits), volume.spacing, most)
        return
    voxels = np.concatenate([said.positive, said.negative])
    if start is not None and start.any():
        voxels = np.concatenate([voxels, corners_of(start)])
    finest = min(volume.spacing)
    ratio = finest / np.array(volume.spacing)
    before = None
    for growth in range(1 + GROWTHS):
        around = np.ceil(MARGIN * 2**growth * ratio).astype(int)
        low, high = voxels.min(axis=0) - around, voxels.max(axis=0) + 1 + around
        region = Region.of(*_cut(low, high, limits), volume.spacing, most)
        if region != before:
            yield region
        before = region


def _cut(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], limits: tuple[npt.NDArray[np.int64], ...]
) -> tuple[list[int], list[int]]:
    return np.maximum(first, limits[0]).tolist(), np.minimum(last, limits[1]).tolist()


def shown(mask: Mask, region: Region, said: VoxelPrompts) -> Mask:
    """The parts that hold a positive prompt; all where there is none."""
    from scipy import ndimage

    if not len(said.positive):
        return mask
    parts, _ = ndimage.label(mask)
    keep = np.unique(parts[tuple(region.working(said.positive).T)])
    found: Mask = np.isin(parts, keep[keep > 0])
    return found


def closer(region: Region, drawn: Field, said: VoxelPrompts, volume: Volume) -> tuple[Region, Field]:
    """The part of ``region`` around what was drawn and the prompts, as fine as it may be, and ``drawn`` on its grid."""
    import torch

    from fm3d_core.volumes.grids import trilinear

    finest, spacing = min(volume.spacing), np.array(volume.spacing)
    places = np.concatenate([said.positive, said.negative]).astype(np.float64)
    seen = shown(drawn > FAINT, region, said)
    if seen.any():
        low, high = corners_of(seen)
        scale = np.array(region.size) / np.array(region.shape)
        places = np.concatenate([places, np.array([low, high + 1]) * scale + region.start])
    if not len(places):  # a box in which nothing was drawn
        return region, drawn
    margin = (places.max(axis=0) - places.min(axis=0)) * FINE_MARGIN + FINE_VOXELS * finest / spacing
    first = np.floor((places.min(axis=0) - margin) / STEP).astype(int) * STEP
    last = np.ceil((places.max(axis=0) + margin) / STEP).astype(int) * STEP
    first, last = np.maximum(first, region.start), np.minimum(last, region.stop)
    fine = Region.of(first.tolist(), last.tolist(), volume.spacing)
    cut = tuple(slice(*ends) for ends in zip(first - region.start, last - region.start, strict=True))
    return fine, trilinear(torch.from_numpy(region.fine(drawn)[cut]), fine.shape).numpy()


def corners_of(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Lowest and highest indices (2, 3) of what is not 0."""
    ends = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append((found[0], found[-1]))
    return np.array(ends, np.int64).T


def touches(found: Mask, region: Region, limits: tuple[npt.NDArray[np.int64], ...]) -> bool:
    """Whether the structure reaches a side of the region beyond which the volume goes on."""
    for axis in range(3):
        low, high = (np.take(found, end, axis=axis).any() for end in (0, -1))
        if (low and region.start[axis] > limits[0][axis]) or (high and region.stop[axis] < limits[1][axis]):
            return True
    return False
