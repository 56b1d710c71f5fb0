"""What one training learns from, read and prepared once: every stage and every check shares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fm3d_core.adaptation.cases import (
    LabeledCase,
    LoadedCase,
    TrainingCase,
    check_structures_left,
    load_cases,
    notes_on_labels,
    plan_preprocessing,
    prepare_cases,
)
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks.segmentation import SegmentationTask
from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    from fm3d_core.models.weights.catalogue import NetworkInput
    from fm3d_core.tasks import DenseTask, Task


@dataclass(frozen=True)
class TrainingSet:
    """Labelled cases in memory.

    Attributes:
        task: what is learned, with its preprocessing.
        loaded: the cases as they were read.
        prepared: the same cases as the network sees them, in the same order.
        left_out: those that could not be used, with the reason.
        notes: choices that were made for the user.
    """

    task: DenseTask
    loaded: tuple[LoadedCase, ...]
    prepared: tuple[TrainingCase, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, indices: Sequence[int]) -> TrainingSet | None:
        """The cases at ``indices`` and the structures drawn in them; the rest of the task is left out.

        None if no structure is drawn in them, so that nothing could be learned.
        """
        part = replace(
            self,
            loaded=tuple(self.loaded[index] for index in indices),
            prepared=tuple(self.prepared[index] for index in indices),
        )
        drawn = set().union(*(set(case.label.unique().tolist()) for case in part.prepared))
        labels = tuple(name for name, value in self.task.values.items() if value in drawn)
        if not labels:
            return None
        return part if labels == self.task.labels else part._restricted(labels)

    def _restricted(self, labels: tuple[str, ...]) -> TrainingSet:
        """The same cases with fewer structures, numbered anew; of those left out nothing is drawn."""
        import torch

        assert isinstance(self.task, SegmentationTask)  # the only task that is taught in stages
        task = replace(self.task, labels=labels)
        numbers = {0: 0, IGNORED: IGNORED, **{self.task.values[name]: value for name, value in task.values.items()}}
        table = np.zeros(256, np.uint8)
        table[list(numbers)] = list(numbers.values())

        def annotated(classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
            kept = None if classes is None else tuple(numbers[value] for value in classes if value in numbers)
            return None if kept == tuple(range(task.classes)) else kept

        loaded = tuple(
            replace(case, label=replace(case.label, array=table[case.label.array]), annotated=annotated(case.annotated))
            for case in self.loaded
        )
        prepared = tuple(
            replace(case, label=torch.from_numpy(table)[case.label.long()], annotated=annotated(case.annotated))
            for case in self.prepared
        )
        return replace(self, task=task, loaded=loaded, prepared=prepared)


def read_training_set(
    cases: Sequence[LabeledCase],
    task: DenseTask,
    fed: NetworkInput | None = None,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> TrainingSet:
    """Read, check and prepare the cases.

    Args:
        cases: unusable ones are left out and named.
        task: its preprocessing, if None, is planned from the cases.
        fed: what the weights were fed with in pretraining.
        progress: receives the stages "reading volumes" and "preparing volumes".
        should_stop: asked at every case.

    Raises:
        FM3DError: no case can be used, or a structure is in none of them.
        Stopped: ``should_stop`` said so.
    """
    loaded, refused = load_cases(cases, task, progress=progress, should_stop=should_stop)
    notes: list[str] = []
    if task.preprocessing is None:
        task = task.with_preprocessing(plan_preprocessing(loaded, fed))
        notes += _notes_on_input(task, fed)
    assert task.preprocessing is not None
    notes += notes_on_labels(loaded)
    prepared = prepare_cases(loaded, task.preprocessing, progress=progress, should_stop=should_stop)
    check_structures_left(prepared, task)
    for case in prepared:
        task.check_channels(len(case.image))
    return TrainingSet(task, tuple(loaded), tuple(prepared), tuple(refused), tuple(notes))


def _notes_on_input(task: Task, fed: NetworkInput | None) -> list[str]:
    """What was taken from the weights' pretraining, and what could not be."""
    if fed is None or task.preprocessing is None:
        return []
    low, high = fed.range
    notes = []
    if fed.spacing is not None:
        x, y, z = fed.spacing
        notes.append(f"Volumes are resampled to {x:g} x {y:g} x {z:g} mm, as in the pretraining of the weights")
    if task.preprocessing.window is not None:
        bottom, top = task.preprocessing.window
        notes.append(f"{bottom:g} to {top:g} HU become {low:g} to {high:g}, as in the pretraining of the weights")
    elif fed.window is not None:
        notes.append(f"The weights know CT, these volumes look otherwise: percentiles become {low:g} to {high:g}")
    return notes
