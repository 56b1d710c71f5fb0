"""From prompts to a segmentation of the whole volume: which region is worked on, and what is done with its result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import LabelError, SettingsError
from fm3d_core.inference.interactive.decoding import VOXELS as SKETCH_VOXELS
from fm3d_core.inference.interactive.features import FeatureVolume
from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.inference.interactive.prompts import Box, Prompts, VoxelPrompts, voxel_box
from fm3d_core.inference.interactive.region import VOXELS, Region
from fm3d_core.inference.interactive.working import Prompted, probability
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes import Volume

MARGIN = 28  # voxels of the finest spacing around the prompts, at first
GROWTHS = 3  # times the margin doubles when the structure reaches the region's border
BOX_MARGIN = 0.25  # of the box's size around it, so that the classifier sees what the structure is not
FAINT = 0.3  # probability from which the region must hold what was drawn
FINE_MARGIN, FINE_VOXELS = 0.1, 6  # of the size of what was drawn, and voxels of the finest spacing, around it
STEP = 8  # voxels: regions begin and end at multiples, so that a click seldom needs new features
_LOOK = 2  # voxels around a click that must not all be empty


def segment_from_prompts(
    volume: Volume,
    features: FeatureVolume,
    prompts: Prompts,
    *,
    roi: Box | None = None,
    given: npt.NDArray[np.uint8] | None = None,
    prior: npt.NDArray[np.float32] | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> npt.NDArray[np.uint8]:
    """Segment the structure that prompts show. The same prompts give the same result, whatever was asked before.

    Args:
        volume: the image.
        features: of this volume; the same object at each click, so that they are computed once.
        prompts: at least one positive point or scribble or a box; any prompt with ``given`` or ``prior``.
        roi: only this part is looked at; None: around the prompts, larger where the structure reaches its border.
        given: (X, Y, Z) a segmentation to correct, not 0 where the structure is; it changes near the prompts only,
            farther away where the classifier is sure.
        prior: (X, Y, Z) a trained network's probability of the structure.
        progress: told of each step.
        should_stop: asked between steps.

    Returns:
        (X, Y, Z) on the volume's RAS grid: 1 the structure, 0 the rest.

    Raises:
        SettingsError: prompts that say nothing, lie outside of the volume or ``roi``, or in empty background.
        LabelError: ``given`` or ``prior`` lies on another grid.
        Stopped: ``should_stop`` said so.
    """
    said = VoxelPrompts.on(volume, prompts)
    for name, array in (("segmentation to correct", given), ("probability", prior)):
        if array is not None and array.shape != volume.shape:
            raise LabelError(
                f"the {name} has shape {array.shape}, the image {volume.shape}", remedy="Bring it to the image's grid"
            )
    limits = (np.zeros(3, int), np.array(volume.shape)) if roi is None else tuple(map(np.array, voxel_box(volume, roi)))
    start = given if given is not None else None if prior is None else (prior > 0.5)
    _check_prompts(volume, said, start is not None, limits)
    clock = StageClock("segmenting", 1 + GROWTHS, progress)
    result = np.zeros(volume.shape, np.uint8) if given is None else (given > 0).astype(np.uint8)
    box = None if said.start is None or said.stop is None else (np.array(said.start), np.array(said.stop))
    most = SKETCH_VOXELS if start is None else VOXELS
    regions = list(_regions(volume, said, limits, start if given is None else None, most))
    for step, region in enumerate(regions):
        clock.report(step)
        drawn = None
        if start is None:
            drawn = features.sketch(region, should_stop=should_stop).draw(said.positive, said.negative, box)
            if region is not regions[-1] and _touches(_shown(drawn > 0.5, region, said), region, limits):
                continue
            region, drawn = _around(region, drawn, said, volume)
        prompted = Prompted(
            region.working(said.positive),
            region.working(said.negative),
            None if box is None else _box_mask(region, *box),
            None if given is None else region.coarse(given > 0),
            None if prior is None else region.coarse(prior),
            drawn,
        )
        found = region.fine(probability(features.at(region, should_stop=should_stop), prompted, should_stop)) > 0.5
        if given is not None or not _touches(found, region, limits):
            break
    result[region.slices] = found
    if box is not None:
        inside = np.zeros(volume.shape, bool)
        inside[tuple(slice(*ends) for ends in zip(*box, strict=True))] = True
        result[~inside] = 0
    result[tuple(said.positive.T)] = 1
    result[tuple(said.negative.T)] = 0
    clock.report(clock.total)
    return result


def _check_prompts(volume: Volume, said: VoxelPrompts, starts: bool, limits: tuple[npt.NDArray[np.int64], ...]) -> None:
    """Refuse prompts from which nothing follows."""
    prompts = len(said.positive) + len(said.negative)
    if starts and not prompts and said.start is None:
        raise SettingsError("no prompt was given", remedy="Click where the segmentation is wrong")
    if not starts and not len(said.positive) and said.start is None:
        raise SettingsError(
            "nothing says where the structure is", remedy="Click into it, paint some of it or draw a box around it"
        )
    both = np.concatenate([said.positive, said.negative])
    if ((both < limits[0]) | (both >= limits[1])).any():
        raise SettingsError("a prompt lies outside of the region of interest", remedy="Enlarge the region of interest")
    lowest = volume.array.min()
    for x, y, z in said.clicks:
        around = volume.array[
            max(x - _LOOK, 0) : x + _LOOK + 1, max(y - _LOOK, 0) : y + _LOOK + 1, max(z - _LOOK, 0) : z + _LOOK + 1
        ]
        if around.max() == lowest:
            raise SettingsError(
                "a positive point lies in empty background, where the image shows nothing",
                remedy="Click into the structure",
            )


def _regions(
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
        voxels = np.concatenate([voxels, _corners(start)])
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


def _shown(mask: Mask, region: Region, said: VoxelPrompts) -> Mask:
    """The parts that hold a positive prompt; all where there is none."""
    from scipy import ndimage

    if not len(said.positive):
        return mask
    parts, _ = ndimage.label(mask)
    keep = np.unique(parts[tuple(region.working(said.positive).T)])
    shown: Mask = np.isin(parts, keep[keep > 0])
    return shown


def _around(region: Region, drawn: Field, said: VoxelPrompts, volume: Volume) -> tuple[Region, Field]:
    """The part of ``region`` around what was drawn and the prompts, as fine as it may be, and ``drawn`` on its grid."""
    import torch

    from fm3d_core.volumes.grids import trilinear

    finest, spacing = min(volume.spacing), np.array(volume.spacing)
    places = np.concatenate([said.positive, said.negative]).astype(np.float64)
    shown = _shown(drawn > FAINT, region, said)
    if shown.any():
        low, high = _corners(shown)
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


def _corners(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Lowest and highest indices (2, 3) of what is not 0."""
    ends = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append((found[0], found[-1]))
    return np.array(ends, np.int64).T


def _box_mask(region: Region, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Mask:
    """Where the box lies on the working grid."""
    mask = np.zeros(region.shape, bool)
    scale = np.array(region.shape) / np.array(region.size)
    low = np.maximum(np.floor((start - region.start) * scale), 0).astype(int)
    high = np.ceil((stop - region.start) * scale).astype(int)
    mask[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = True
    return mask


def _touches(found: Mask, region: Region, limits: tuple[npt.NDArray[np.int64], ...]) -> bool:
    """Whether the structure reaches a side of the region beyond which the volume goes on."""
    for axis in range(3):
        low, high = (np.take(found, end, axis=axis).any() for end in (0, -1))
        if (low and region.start[axis] > limits[0][axis]) or (high and region.stop[axis] < limits[1][axis]):
            return True
    return False
