"""Labelled cases for training: read, checked against their images, prepared, and kept as tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fm3d_core.errors import CaseError, FM3DError, LabelError, Stopped
from fm3d_core.files import sha256_of
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes import (
    COMPLETE,
    IGNORED,
    Annotation,
    Preprocessing,
    Volume,
    check_label,
    map_label,
    read_channels,
    read_label,
    refuse_constant,
)

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.weights.catalogue import NetworkInput
    from fm3d_core.tasks.task import DenseTask

logger = logging.getLogger(__name__)
PLANNED_VOXELS = 8_000_000  # a median case is not resampled to more voxels than this (a 200^3 volume)


@dataclass(frozen=True)
class LabeledCase:
    """An image file and its label file.

    Attributes:
        name: how the case is called in messages and in the adapter.
        image, label: the files; a DICOM series is a folder.
        values: structure name -> voxel value in this label file; None: the task's order, 1 to N.
        annotation: what of the volume was annotated; by default all.
        more_channels: files of the image's further channels, in order.
        target: what is known of the whole volume, for a task that asks it too (JointTask.read_target).
    """

    name: str
    image: Path
    label: Path
    values: Mapping[str, int] | None = None
    annotation: Annotation = COMPLETE
    more_channels: tuple[Path, ...] = ()
    target: tuple[float, ...] = ()


@dataclass(frozen=True)
class LoadedCase:
    """A labelled case in memory: image and label on one RAS grid.

    Attributes:
        name: of the case.
        image: as read.
        label: values in the task's order, ``IGNORED`` where nothing was annotated.
        image_sha256, label_sha256: of the files.
        voxels_sha256: of the image's values.
        annotation: what was annotated.
        annotated: classes (0 is background) that were annotated; None: all of the task.
        target: what is known of the whole volume.
    """

    name: str
    image: Volume
    label: Volume
    image_sha256: str
    label_sha256: str
    voxels_sha256: str
    annotation: Annotation = COMPLETE
    annotated: tuple[int, ...] | None = None
    target: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainingCase:
    """A prepared case.

    Attributes:
        name: of the case.
        image: (C, X, Y, Z) float32 in [-1, 1].
        label: (1, X, Y, Z) uint8 in the task's order, ``IGNORED`` where nothing was annotated.
        spacing: mm per voxel of both.
        annotated: classes (0 is background) that were annotated; None: all of the task.
        target: what is known of the whole volume.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor
    spacing: tuple[float, float, float]
    annotated: tuple[int, ...] | None = None
    target: tuple[float, ...] = ()


def load_cases(
    cases: Sequence[LabeledCase],
    task: DenseTask,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    complete: bool = True,
) -> tuple[list[LoadedCase], list[str]]:
    """Read and check the cases; a bad one is left out and the reason returned, with the case's name for its path.

    A volume given twice with the same label is used once. ``complete``: whether every structure must be in some case,
    as is needed to learn it.

    Raises:
        CaseError: no case is left, or a structure or the background is in none of them.
        FM3DError: the only case is bad: its own reason.
        Stopped: ``should_stop`` said so.
    """
    if not cases:
        raise CaseError("no labelled case to learn from", remedy="Label at least one volume and submit it")
    loaded: list[LoadedCase] = []
    refused: list[tuple[str, FM3DError]] = []
    clock = StageClock("reading volumes", len(cases), progress)
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Training")
        clock.report(done)
        try:
            read = _load(case, task)
            _refuse_second(read, loaded)
            loaded.append(read)
        except FM3DError as error:
            logger.warning("Case %s is left out: %s", case.name, error)
            refused.append((case.name, error))
    clock.report(len(cases))
    if not loaded:
        if len(refused) == 1:
            raise refused[0][1]
        raise CaseError(f"none of the {len(cases)} labelled cases can be used", remedy=f"The first: {refused[0][1]}")
    if complete:
        _require_classes(loaded, task)
    return loaded, [str(type(error)(error.problem, remedy=error.remedy, path=name)) for name, error in refused]


def _refuse_second(case: LoadedCase, others: Sequence[LoadedCase]) -> None:
    for other in others:
        if case.voxels_sha256 != other.voxels_sha256 or case.annotated != other.annotated:
            continue
        if np.array_equal(case.label.array, other.label.array):
            raise CaseError(f"is the same image with the same label as {other.name}", remedy="It is used once")


def notes_on_labels(cases: Sequence[LoadedCase]) -> list[str]:
    """What a user should know of labels that are partial or that contradict each other."""
    notes = []
    if partial := [case.name for case in cases if not case.annotation.complete]:
        notes.append(f"Labelled in part, what was not annotated counts nowhere: {', '.join(partial)}")
    for index, case in enumerate(cases):
        if twins := [other.name for other in cases[:index] if other.voxels_sha256 == case.voxels_sha256]:
            notes.append(f"{case.name} is the same image as {twins[0]} with another label; both labels are used")
    if bare := [case.name for case in cases if not (case.label.array == 0).any()]:
        notes.append(f"No background is annotated in {', '.join(bare)}: what it looks like is learned from the others")
    return notes


def _require_classes(loaded: Sequence[LoadedCase], task: DenseTask) -> None:
    present = set().union(*(set(np.unique(case.label.array).tolist()) for case in loaded))
    missing = [name for value, name in enumerate(task.drawn, start=1) if value not in present]
    if 0 not in present and any(IGNORED in case.label.array for case in loaded):
        raise CaseError(
            "no voxel is annotated as background, so everything would become a structure",
            remedy="Annotate some background in at least one volume, with value 0 or a label named background",
        )
    if missing:
        raise CaseError(
            f"no case contains {', '.join(missing)}",
            remedy="Label it in at least one volume or leave the structure out",
        )


def _load(case: LabeledCase, task: DenseTask) -> LoadedCase:
    values = dict(case.values) if case.values is not None else task.drawn
    image = read_channels((case.image, *case.more_channels), task.channels)
    refuse_constant(image)
    label = read_label(case.label, names=case.annotation.names_of(values))
    check_label(label, image, allow_empty=case.annotation.unlabelled_value == 0)
    label, annotation = map_label(label, values, tuple(task.drawn), case.annotation)
    if np.isin(label.array, (0, IGNORED)).all():
        raise LabelError(
            f"none of {', '.join(task.drawn)} is labelled", path=case.label, remedy="Draw it or leave the case out"
        )
    hashes = sha256_of_image(case.image), sha256_of_image(case.label), sha256_of_voxels(image)
    return LoadedCase(case.name, image, label, *hashes, annotation, _annotated(annotation, task), case.target)


def _annotated(annotation: Annotation, task: DenseTask) -> tuple[int, ...] | None:
    """The classes that were annotated; None if these are all of the task."""
    if annotation.structures is None or set(task.drawn) <= set(annotation.structures):
        return None
    return (0, *(value for value, name in enumerate(task.drawn, start=1) if name in annotation.structures))


def sha256_of_image(path: Path) -> str:
    """sha256 of an image or label file; of a folder (a DICOM series), over its files' hashes in order of name."""
    import hashlib

    if path.is_dir():
        parts = "".join(sha256_of(file) for file in sorted(path.iterdir()) if file.is_file())
        return hashlib.sha256(parts.encode()).hexdigest()
    return sha256_of(path)


def sha256_of_voxels(volume: Volume) -> str:
    """sha256 of shape and values as read, in RAS: the same for an image that was saved again or in another format."""
    import hashlib

    digest = hashlib.sha256(f"{volume.array.shape} {volume.array.dtype}".encode())
    for array in volume.channels:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def plan_preprocessing(cases: Sequence[LoadedCase], fed: NetworkInput | None = None) -> Preprocessing:
    """The preprocessing for cases without one: their median spacing, coarser if the volumes are very large.

    The median spacing is nnU-Net's rule (Isensee et al. 2021).

    Args:
        cases: which it is for.
        fed: what the weights were fed with in pretraining: their spacing and range of values are taken, so that the
            features mean what they meant, and their window if all cases are CT. Another modality has no window: the
            percentiles of each volume are mapped to the same range.
    """
    return plan_for_volumes([case.image for case in cases], fed)


def plan_for_volumes(volumes: Sequence[Volume], fed: NetworkInput | None = None) -> Preprocessing:
    """The same for images whose labels are not there yet."""
    if fed is None:
        return Preprocessing(spacing=_planned_spacing(volumes))
    window = fed.window if all(is_ct(volume) for volume in volumes) else None
    return Preprocessing(spacing=fed.spacing or _planned_spacing(volumes), window=window, input_range=fed.range)


def is_ct(image: Volume) -> bool:
    """Whether a volume's values are Hounsfield units, as far as the values themselves say so."""
    from fm3d_core.volumes.crop_preparation import modality_of_values

    return modality_of_values(image.array) == "CT"


def _planned_spacing(volumes: Sequence[Volume]) -> tuple[float, float, float]:
    spacing = np.median([volume.spacing for volume in volumes], axis=0)
    extent = np.median([np.array(volume.shape) * volume.spacing for volume in volumes], axis=0)
    voxels = float(np.prod(extent / spacing))
    # coarsen the finest axes first: thick slices stay as they are
    while voxels > PLANNED_VOXELS:
        finest = spacing <= spacing.min() * 1.01
        spacing[finest] *= 1.1
        voxels = float(np.prod(extent / spacing))
    x, y, z = (round(float(value), 4) for value in spacing)
    return x, y, z


def prepare_cases(
    cases: Sequence[LoadedCase],
    preprocessing: Preprocessing,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> list[TrainingCase]:
    """Resample, scale and crop the cases to tensors.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    prepared: list[TrainingCase] = []
    clock = StageClock("preparing volumes", len(cases), progress)
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Training")
        clock.report(done)
        volume = preprocessing.prepare(case.image)
        label = preprocessing.prepare_label(case.label, volume, ignored=IGNORED)
        prepared.append(TrainingCase(case.name, volume.image, label, volume.spacing, case.annotated, case.target))
    clock.report(len(cases))
    return prepared


def check_structures_left(cases: Sequence[TrainingCase], task: DenseTask) -> None:
    """Refuse to learn a structure of which no voxel is left on the prepared grids.

    Raises:
        CaseError: names the structure.
    """
    left = set().union(*(set(case.label.unique().tolist()) for case in cases))
    if lost := [name for value, name in enumerate(task.drawn, start=1) if value not in left]:
        raise CaseError(
            f"no voxel of {', '.join(lost)} is left after resampling",
            remedy="Label more of it, or give a task with a finer spacing or without crop_foreground",
        )
