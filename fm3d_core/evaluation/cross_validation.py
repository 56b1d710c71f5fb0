"""How good an adapter will be on further volumes, from the labelled volumes alone: each is held out in turn."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fm3d_core.adaptation.expected_dice import ExpectedDice, expected_dice
from fm3d_core.errors import FM3DError
from fm3d_core.evaluation.dice import dice_per_label
from fm3d_core.evaluation.truth import read_truth
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, ignore_progress, never_stop

if TYPE_CHECKING:
    from fm3d_core.adaptation import FinetuneSettings, LabeledCase
    from fm3d_core.inference import Predictor
    from fm3d_core.tasks import SegmentationTask

logger = logging.getLogger(__name__)
FOLDS = 5  # more volumes than this are held out in groups
SHARE = 0.5  # of the whole run's seconds, for each fold: with a third, hippocampus came out 0.06 too low
SHORTEST = 5.0  # seconds of training of a fold: below this a fold says nothing of the whole run


def cross_validate(
    cases: Sequence[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> ExpectedDice | None:
    """Train as often as there are volumes, at most five times, each time without some, and measure Dice on those.

    Each training has half of the whole run's seconds (at least 5). With fewer volumes and less time it is a little
    worse than the whole run will be: the figure errs on the careful side. Of a single volume, two halves made of slabs
    are held out in turn; that says how well the rest of the same volume is found, and nothing of other patients, so
    there is no interval.

    Args:
        cases: all labelled volumes; a bad one is left out.
        task: what is learned.
        settings: of the training that is judged; with ``steps``, each fold takes as many.
        progress: receives the stages of each training, with the fold in front.
        should_stop: asked at every step.

    Returns:
        None if no fold could be measured, for example because each structure is in one volume only.

    Raises:
        FM3DError: the only volume cannot be used.
        Stopped: ``should_stop`` said so.
    """
    short = replace(settings, seconds=max(settings.seconds * SHARE, SHORTEST))
    if len(cases) == 1:
        return _within(cases[0], task, short, progress=progress, should_stop=should_stop)
    count = min(len(cases), FOLDS)
    held_out = [list(range(fold, len(cases), count)) for fold in range(count)]
    present = [_structures_of(case, task) for case in cases]
    measured: dict[str, dict[str, float]] = {}
    for fold, indices in enumerate(held_out):
        learned = [index for index in range(len(cases)) if index not in indices]
        labels = tuple(name for name in task.labels if any(name in present[index] for index in learned))
        # a structure that only the held-out volumes have cannot be learned in this fold, so it is not measured either
        if not labels:
            continue
        part = [cases[index] for index in learned], replace(task, labels=labels), short
        watched = _in_fold(progress, fold + 1, count)
        predictor = _train(*part, progress=watched, should_stop=should_stop)
        for index in indices:
            if present[index] & set(labels):
                measured |= _score(predictor, cases[index], task)
    volumes = "volume" if len(cases) == count else "group of volumes"
    return expected_dice(measured, f"each {volumes} held out in turn, {count} trainings of {short.seconds:.0f} s")


def _within(
    case: LabeledCase,
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> ExpectedDice | None:
    """Dice in the slabs of one volume that were held out."""
    from fm3d_core.evaluation.slab_folds import slab_folds
    from fm3d_core.volumes import read_volume

    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="fm3d-") as folder:
        folds = slab_folds(case, task, Path(folder))
        for number, fold in enumerate(folds, start=1):
            labels = tuple(name for name in task.labels if name in fold.structures)
            if not labels:
                continue
            watched = _in_fold(progress, number, len(folds))
            part = [fold.learned], replace(task, labels=labels), settings
            predictor = _train(*part, progress=watched, should_stop=should_stop)
            # the fold's labels are numbered anew; the truth is in the task's order
            order = np.array([0, *(task.values[name] for name in labels)], np.uint8)
            found = fold.held_out.comparable(order[predictor.segment(read_volume(case.image))])
            for name, dice in dice_per_label(found, fold.held_out.labels, task.labels).items():
                if name in labels:
                    scores.setdefault(name, []).append(dice)
    means = {name: float(np.nanmean(values)) for name, values in scores.items() if not np.isnan(values).all()}
    return expected_dice({case.name: means}, "slabs of the one volume held out; other patients may differ")


def _train(
    cases: list[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> Predictor:
    from fm3d_core.adaptation import finetune
    from fm3d_core.inference import Predictor

    adapter = finetune(cases, task, settings, progress=progress, should_stop=should_stop)
    return Predictor(adapter, settings.device)


def _structures_of(case: LabeledCase, task: SegmentationTask) -> set[str]:
    """Structures drawn in a case; none in one that cannot be used."""
    from fm3d_core.volumes import read_label

    values = case.values if case.values is not None else task.values
    try:
        found = set(np.unique(read_label(case.label).array).tolist())
    except FM3DError as error:
        logger.warning("Case %s is left out: %s", case.name, error)
        return set()
    return {name for name in task.labels if values.get(name) in found}


def _score(predictor: Predictor, case: LabeledCase, task: SegmentationTask) -> dict[str, dict[str, float]]:
    """Case -> structure that was learned -> Dice on the image's own grid, where it was annotated; or nothing."""
    from fm3d_core.volumes import read_volume

    labels = predictor.card.task.labels
    values = dict(case.values if case.values is not None else task.values)
    try:
        volume = read_volume(case.image)
        truth = read_truth(case.label, volume, values, labels, case.annotation)
    except FM3DError as error:
        logger.warning("Case %s is left out: %s", case.name, error)
        return {}
    return {case.name: dice_per_label(truth.comparable(predictor.segment(volume)), truth.labels, labels)}


def _in_fold(progress: ProgressCallback, fold: int, count: int) -> ProgressCallback:
    """The same events, with the fold before the stage's name."""

    def report(event: Progress) -> None:
        progress(replace(event, stage=f"checking {fold} of {count}: {event.stage}"))

    return report
