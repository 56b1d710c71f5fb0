"""One adapter of any task, asked about volumes: label maps, overlapping regions, answers about the whole; and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.image_predictor import ImagePredictor
from fm3d_core.inference.predictor import Predictor
from fm3d_core.inference.sliding_window import OVERLAP
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks import JointTask, RegionsTask, WholeVolumeTask

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter
    from fm3d_core.volumes import Volume

DICOM = ".dcm"


@dataclass(frozen=True)
class Answer:
    """What an adapter says of a volume.

    Attributes:
        labels: (X, Y, Z) uint8 on its RAS grid; None of a task about whole volumes.
        regions: name -> mask on the same grid, of regions that may overlap; else empty.
        activated: the numbers behind the answer about the whole volume; None of a task about voxels alone.
    """

    labels: npt.NDArray[np.uint8] | None = None
    regions: Mapping[str, npt.NDArray[np.bool_]] | None = None
    activated: list[float] | None = None


class Answering:
    """An adapter made ready, whatever its question is.

    Args:
        adapter: what was learned.
        device: auto, cpu or cuda.
        views: of tasks about voxels, see :class:`Predictor`.
        overlap: of neighbouring windows, see :class:`Predictor`.
        flips: of tasks about whole volumes, see :class:`ImagePredictor`.
        keep_islands: of tasks about voxels, see :class:`Predictor`.

    Raises:
        FM3DError: as of both.
    """

    def __init__(
        self,
        adapter: Adapter,
        device: str = "auto",
        *,
        views: int | None = None,
        overlap: float = OVERLAP,
        flips: bool | None = None,
        keep_islands: bool = False,
    ) -> None:
        self.task = adapter.card.task
        self.dense: Predictor | None = None
        self.whole: ImagePredictor | None = None
        if self.task.whole_volume:
            self.whole = ImagePredictor(adapter, device, flips=flips)
        else:
            self.dense = Predictor(adapter, device, views=views, overlap=overlap, keep_islands=keep_islands)

    @property
    def answered_task(self) -> WholeVolumeTask | None:
        """What ``activated`` is an answer to; None where there is none."""
        if isinstance(self.task, JointTask):
            return self.task.classification
        return self.task if isinstance(self.task, WholeVolumeTask) else None

    def answer(
        self,
        volume: Volume,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> Answer:
        """Ask about one volume.

        Raises:
            SettingsError: another number of channels than the task is for.
            Stopped: ``should_stop`` said so.
        """
        if self.whole is not None:
            return Answer(activated=self.whole.activated(volume, should_stop=should_stop))
        assert self.dense is not None
        task = self.task
        if isinstance(task, RegionsTask):
            masks = self.dense.segment_regions(volume, progress=progress, should_stop=should_stop)
            return Answer(task.painted(masks), dict(zip(task.labels, masks, strict=True)))
        if isinstance(task, JointTask):
            labels, said = self.dense.classify(volume, progress=progress, should_stop=should_stop)
            return Answer(labels, activated=[float(said["probabilities"][name]) for name in task.image_labels])
        return Answer(self.dense.segment(volume, progress=progress, should_stop=should_stop))


def files_of(folder: Path, name: str, task: Any, suffix: str) -> list[Path]:
    """What :func:`write_answer` writes for a volume."""
    if task.whole_volume:
        return []
    if suffix == DICOM or not isinstance(task, RegionsTask):
        return [folder / f"{name}{suffix}"]
    return [folder / f"{name}{suffix}", *(folder / f"{name}_{region}{suffix}" for region in task.labels)]


def write_answer(
    folder: Path, name: str, answer: Answer, task: Any, like: Volume, suffix: str = ".nii.gz"
) -> list[Path]:
    """Write the label map, and of overlapping regions a mask each; as DICOM SEG all are segments of one object.

    Args:
        folder: where to.
        name: of the files.
        answer: to write; what it says of the whole volume is not written here.
        task: of the adapter.
        like: the image.
        suffix: .nii.gz, .nii, .nrrd, .mha or .dcm.

    Returns:
        The files.

    Raises:
        VolumeError: DICOM SEG of an image that is no DICOM series.
        StorageError: disk full, no permission.
    """
    from fm3d_core.volumes import write_dicom_segmentation, write_label

    if answer.labels is None:
        return []
    paths = files_of(folder, name, task, suffix)
    if suffix == DICOM:
        masks = answer.regions or {label: answer.labels == value for label, value in task.values.items()}
        write_dicom_segmentation(paths[0], masks, like, "FM3D")
        return paths
    write_label(paths[0], answer.labels, like=like)
    for path, mask in zip(paths[1:], (answer.regions or {}).values(), strict=True):
        write_label(path, mask.astype(np.uint8), like=like)
    return paths
