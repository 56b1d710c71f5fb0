"""From prompts to a segmentation of the whole volume: which region is worked on, and what is done with its result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import LabelError, SettingsError
from fm3d_core.inference.interactive.bounding import bounded
from fm3d_core.inference.interactive.decoding import VOXELS as SKETCH_VOXELS
from fm3d_core.inference.interactive.features import FeatureVolume
from fm3d_core.inference.interactive.framing import GROWTHS, closer, regions_around, shown, touches
from fm3d_core.inference.interactive.geodesic import Mask
from fm3d_core.inference.interactive.prompts import Box, Point, Prompts, VoxelPrompts, voxel_box, voxel_of
from fm3d_core.inference.interactive.region import VOXELS, Region
from fm3d_core.inference.interactive.results import key_of
from fm3d_core.inference.interactive.working import Prompted, probability
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes import Volume

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

    Without ``given`` and ``prior`` each click after the first changes what was found without it as
    :func:`~fm3d_core.inference.interactive.bounding.bounded` says. ``features`` keeps what was found, so that a further
    click is one step; of prompts that are new to it all steps are taken.

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
    task = _Work(volume, features, limits, should_stop)
    if start is not None:
        clock = StageClock("segmenting", 1 + GROWTHS, progress)
        result = task.segment(said, given, prior, None, clock, 0).astype(np.uint8)
        clock.report(clock.total)
        return result
    steps = _steps(prompts)
    keys = [key_of(step, roi) for step in steps]
    done, found = features.results.newest(keys)
    clock = StageClock("segmenting", max(len(steps) - done, 1) * (1 + GROWTHS), progress)
    for number, (step, key) in enumerate(zip(steps[done:], keys[done:], strict=True)):
        found = task.step(step, said if step is steps[-1] else None, found, clock, number * (1 + GROWTHS))
        features.results.keep(key, found)
    clock.report(clock.total)
    assert found is not None  # there is a step at least
    return found.astype(np.uint8)


def _steps(prompts: Prompts) -> list[Prompts]:
    """The prompts after each step: all up to what says where the structure is and to the last box or scribbles are one
    step, each click after them is one more."""
    kinds = [isinstance(each, Point) for each in prompts.given]
    shows = [not isinstance(each, Point) or each.positive for each in prompts.given]
    first = max(shows.index(True), *(index for index, click in enumerate(kinds) if not click), 0)
    return [Prompts(prompts.given[:count]) for count in range(first + 1, len(kinds) + 1)]


@dataclass(frozen=True)
class _Work:
    """What is worked on, whatever the prompts.

    Attributes:
        volume, features: as of :func:`segment_from_prompts`.
        limits: first voxel and the one after the last of what is looked at.
        should_stop: as there.
    """

    volume: Volume
    features: FeatureVolume
    limits: tuple[npt.NDArray[np.int64], ...]
    should_stop: ShouldStop

    def step(
        self, prompts: Prompts, said: VoxelPrompts | None, before: Mask | None, clock: StageClock, at: int
    ) -> Mask:
        """What is found with ``prompts``: where there is something before, what their last click may change of it.

        Args:
            prompts: so far.
            said: the same on the grid, if that is known already.
            before: (X, Y, Z) what was found without the last.
            clock: of all steps.
            at: where it stands.
        """
        said = said or VoxelPrompts.on(self.volume, prompts)
        if not len(said.positive) and said.start is None:  # taken back by a click at the same voxel
            return np.zeros(self.volume.shape, bool)
        found = self.segment(said, None, None, before, clock, at)
        if before is None:
            return found
        click = prompts.given[-1]
        assert isinstance(click, Point)
        voxel = voxel_of(self.volume, click.position)
        found = bounded(before, found, voxel, click.positive, self.volume.spacing)
        found[tuple(said.positive.T)] = True
        found[tuple(said.negative.T)] = False
        return found

    def segment(
        self,
        said: VoxelPrompts,
        given: npt.NDArray[np.uint8] | None,
        prior: npt.NDArray[np.float32] | None,
        before: Mask | None,
        clock: StageClock,
        at: int,
    ) -> Mask:
        """The structure (X, Y, Z) from all prompts at once.

        Args:
            said: the prompts.
            given, prior: as of :func:`segment_from_prompts`.
            before: (X, Y, Z) what was found without the last click, for the prompt decoder.
            clock, at: where it stands.
        """
        volume, features, limits, should_stop = self.volume, self.features, self.limits, self.should_stop
        draws = given is None and prior is None
        result = np.zeros(volume.shape, bool) if given is None else given > 0
        box = None if said.start is None or said.stop is None else (np.array(said.start), np.array(said.stop))
        start = prior > 0.5 if prior is not None and given is None else None
        regions = list(regions_around(volume, said, limits, start, SKETCH_VOXELS if draws else VOXELS))
        for step, region in enumerate(regions):
            clock.report(at + step)
            drawn = None
            if draws:
                sketch = features.sketch(region, should_stop=should_stop)
                drawn = sketch.draw(
                    said.positive, said.negative, box, None if before is None else region.coarse(before)
                )
                if region is not regions[-1] and touches(shown(drawn > 0.5, region, said), region, limits):
                    continue
                region, drawn = closer(region, drawn, said, volume)
            prompted = Prompted(
                region.working(said.positive),
                region.working(said.negative),
                None if box is None else _box_mask(region, *box),
                None if given is None else region.coarse(given > 0),
                None if prior is None else region.coarse(prior),
                drawn,
            )
            found = region.fine(probability(features.at(region, should_stop=should_stop), prompted, should_stop)) > 0.5
            if given is not None or not touches(found, region, limits):
                break
        result[region.slices] = found
        if box is not None:
            inside = np.zeros(volume.shape, bool)
            inside[tuple(slice(*ends) for ends in zip(*box, strict=True))] = True
            result[~inside] = False
        result[tuple(said.positive.T)] = True
        result[tuple(said.negative.T)] = False
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


def _box_mask(region: Region, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Mask:
    """Where the box lies on the working grid."""
    mask = np.zeros(region.shape, bool)
    scale = np.array(region.shape) / np.array(region.size)
    low = np.maximum(np.floor((start - region.start) * scale), 0).astype(int)
    high = np.ceil((stop - region.start) * scale).astype(int)
    mask[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = True
    return mask
