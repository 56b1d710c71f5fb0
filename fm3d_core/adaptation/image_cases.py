"""Cases for tasks about whole volumes: read, prepared, and kept small in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fm3d_core.adaptation.adapter import UsedCase
from fm3d_core.adaptation.cases import plan_for_volumes, sha256_of_image, sha256_of_voxels
from fm3d_core.errors import CaseError, FM3DError, Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes import Preprocessing, read_channels, refuse_constant

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.weights.catalogue import NetworkInput
    from fm3d_core.tasks import WholeVolumeTask
    from fm3d_core.volumes import Volume

logger = logging.getLogger(__name__)
PLANNED_FROM = 20  # volumes that a preprocessing is planned from
PLANNED_VOXELS = 64**3  # of a median volume, where nothing else is said: a step takes a fraction of a second on a CPU


@dataclass(frozen=True)
class ImageCase:
    """An image and what is known of it as a whole.

    Attributes:
        name: how the case is called in messages and in the adapter.
        images: one file per channel, or one 4D file.
        target: of the task's ``read_target``; empty where it is to be predicted.
    """

    name: str
    images: tuple[Path, ...]
    target: tuple[float, ...] = ()


@dataclass(frozen=True)
class PreparedImage:
    """A prepared image of a case.

    Attributes:
        name: of the case.
        image: (C, X, Y, Z) float16 in [-1, 1], which is finer than the noise of any scanner.
        spacing: mm per voxel.
        target: what is known of it.
    """

    name: str
    image: torch.Tensor
    spacing: tuple[float, float, float]
    target: tuple[float, ...]


@dataclass(frozen=True)
class ImageSet:
    """What one training about whole volumes learns from.

    Attributes:
        task: with preprocessing, crop, and what it takes from the targets.
        prepared: the cases.
        used: their names and hashes, in the same order.
        left_out: those that could not be used, with the reason.
        notes: choices that were made for the user.
    """

    task: WholeVolumeTask
    prepared: tuple[PreparedImage, ...]
    used: tuple[UsedCase, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_image_set(
    cases: Sequence[ImageCase],
    task: WholeVolumeTask,
    fed: NetworkInput | None = None,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> ImageSet:
    """Read, check and prepare cases to learn from.

    Args:
        cases: with targets; images that cannot be used are left out and named.
        task: its preprocessing and crop, if None, are planned from the cases.
        fed: what the weights were fed with in pretraining.
        progress: receives the stage "reading volumes".
        should_stop: asked at every case.

    Raises:
        FM3DError: no case can be used, or their targets teach nothing.
        Stopped: ``should_stop`` said so.
    """
    if not cases:
        raise CaseError("no case to learn from", remedy="List at least two volumes with what is known of them")
    notes: list[str] = []
    if task.preprocessing is None:
        task = task.with_preprocessing(_planned_preprocessing(cases, task, fed))
        assert task.preprocessing is not None and task.preprocessing.spacing is not None
        x, y, z = task.preprocessing.spacing
        notes.append(f"Volumes are resampled to {x:g} x {y:g} x {z:g} mm")
    prepared, used, refused = _read(cases, task, progress, should_stop)
    if not prepared:
        raise CaseError(f"none of the {len(cases)} cases can be used", remedy=f"The first: {refused[0]}")
    task = task.fit([each.target for each in prepared])
    if task.crop is None:
        task = replace(task, crop=_planned_crop(prepared))
    return ImageSet(task, tuple(prepared), tuple(used), tuple(refused), tuple(notes))


def prepare_images(
    cases: Sequence[ImageCase],
    task: WholeVolumeTask,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> list[PreparedImage]:
    """Prepare cases that are measured, as the task says.

    Raises:
        FM3DError: one cannot be used.
        Stopped: ``should_stop`` said so.
    """
    clock, prepared = StageClock("reading volumes", len(cases), progress), []
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Reading")
        clock.report(done)
        prepared.append(_prepared(case, task, read_channels(case.images, task.channels)))
    return prepared


def _read(
    cases: Sequence[ImageCase], task: WholeVolumeTask, progress: ProgressCallback, should_stop: ShouldStop
) -> tuple[list[PreparedImage], list[UsedCase], list[str]]:
    clock = StageClock("reading volumes", len(cases), progress)
    prepared: list[PreparedImage] = []
    used: list[UsedCase] = []
    refused: list[str] = []
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Training")
        clock.report(done)
        try:
            volume = read_channels(case.images, task.channels)
            refuse_constant(volume)
            voxels = sha256_of_voxels(volume)
            if twin := next((each.name for each in used if each.voxels_sha256 == voxels), None):
                raise CaseError(f"is the same image as {twin}", remedy="It is used once")
            prepared.append(_prepared(case, task, volume))
            used.append(UsedCase(case.name, sha256_of_image(case.images[0]), "", {}, voxels))
        except FM3DError as error:
            logger.warning("Case %s is left out: %s", case.name, error)
            refused.append(str(type(error)(error.problem, remedy=error.remedy, path=case.name)))
    clock.report(len(cases))
    return prepared, used, refused


def _prepared(case: ImageCase, task: WholeVolumeTask, volume: Volume) -> PreparedImage:
    assert task.preprocessing is not None
    prepared = task.preprocessing.prepare(volume)
    task.check_channels(len(prepared.image))
    return PreparedImage(case.name, prepared.image.half(), prepared.spacing, case.target)


def _planned_preprocessing(
    cases: Sequence[ImageCase], task: WholeVolumeTask, fed: NetworkInput | None
) -> Preprocessing:
    """As for voxels, but so coarse that a whole volume is seen at once."""
    volumes = [read_channels(case.images, task.channels) for case in cases[:PLANNED_FROM]]
    planned = plan_for_volumes(volumes, fed)
    spacing = np.array(planned.spacing if planned.spacing is not None else volumes[0].spacing)
    extent = np.median([np.array(volume.shape) * volume.spacing for volume in volumes], axis=0)
    while math.prod(extent / spacing) > PLANNED_VOXELS:
        finest = spacing <= spacing.min() * 1.01
        spacing[finest] *= 1.1
    x, y, z = (round(float(value), 4) for value in spacing)
    return replace(planned, spacing=(x, y, z))


def _planned_crop(prepared: Sequence[PreparedImage]) -> tuple[int, int, int]:
    """The size in which three quarters of the prepared volumes fit, along each axis."""
    sizes = np.quantile([each.image.shape[-3:] for each in prepared], 0.75, axis=0)
    x, y, z = (max(int(np.ceil(size)), 2) for size in sizes)
    return x, y, z
