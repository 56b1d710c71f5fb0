"""How good an adapter will be on further volumes, from the labelled volumes alone: each is held out in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.adaptation.expected_dice import ExpectedDice, expected_dice
from fm3d_core.evaluation.dice import dice_per_label
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    from fm3d_core.adaptation import FinetuneSettings, LabeledCase
    from fm3d_core.adaptation.cases import LoadedCase
    from fm3d_core.adaptation.feature_cache import FeatureCache
    from fm3d_core.adaptation.training_set import TrainingSet
    from fm3d_core.inference import Predictor
    from fm3d_core.tasks import DenseTask, SegmentationTask

FOLDS = 5  # more volumes than this are held out in groups
SHARE = 0.5  # of the whole run's seconds, for each fold: with a third, hippocampus came out 0.06 too low
SHORTEST = 5.0  # seconds of training of a fold: below this a fold says nothing of the whole run
Scores = dict[str, dict[str, float]]  # case -> structure -> Dice or another figure


def cross_validate(
    cases: Sequence[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> ExpectedDice | None:
    """Read the cases and measure, see :func:`cross_validate_set`.

    Raises:
        FM3DError: no case can be used, or a structure is in none of them.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.building import spec_of
    from fm3d_core.adaptation.training_set import read_training_set

    fed = spec_of(settings, task.channels)[1]
    data = read_training_set(cases, task, fed, progress=progress, should_stop=should_stop)
    return cross_validate_set(data, settings, progress=progress, should_stop=should_stop)


def cross_validate_set(
    data: TrainingSet,
    settings: FinetuneSettings,
    *,
    share: float = SHARE,
    most: int | None = None,
    cache: FeatureCache | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> ExpectedDice | None:
    """Train as often as there are volumes, at most five times, each time without some, and measure Dice on those.

    Each training has a share of the whole run's seconds (at least 5). With fewer volumes and less time it is a little
    worse than the whole run will be: the figure errs on the careful side. Of a single volume, two halves made of slabs
    are held out in turn; that says how well the rest of the same volume is found, and nothing of other patients, so
    there is no interval. The same image given twice, with other labels, is held out together: none is learned from its
    twin.

    Args:
        data: all labelled volumes.
        settings: of the training that is judged; with ``steps``, each fold takes as many.
        share: of the whole run's seconds, for each training.
        most: volumes that are held out, one at a time, to bound the cost; None: all, in groups if there are many.
        cache: of features, for methods on a frozen backbone.
        progress: receives the stages of each training, with the fold in front.
        should_stop: asked at every step.

    Returns:
        None if no fold could be measured, for example because each structure is in one volume only.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.finetune import train
    from fm3d_core.inference import Predictor

    groups = groups_of(data)
    folds = _folds(groups, most)
    count = len(folds)
    short = replace(settings, seconds=max(settings.seconds * share, SHORTEST))

    def learn(part: TrainingSet, fold: int) -> Predictor:
        watched = _in_fold(progress, fold, count)
        adapter = train(part, short, cache=cache, progress=watched, should_stop=should_stop)
        return Predictor(adapter, settings.device)

    if len(groups) == 1:
        return _within(data, learn)
    measured: Scores = {}
    confidence: Scores = {}
    for fold, held_out in enumerate(folds):
        learned = [index for index in range(len(data.loaded)) if index not in held_out]
        if (part := data.only(learned)) is None:
            continue
        predictor = learn(part, fold + 1)
        for index in held_out:
            dice, sure = _score_with_confidence(predictor, data.loaded[index], data.task)
            measured, confidence = measured | dice, confidence | sure
    volumes = "each volume" if most is None and len(groups) == count else "each group of volumes"
    if most is not None:
        volumes = "each volume" if len(groups) == count else f"each of {count} volumes"
    how = f"{volumes} held out in turn, {count} trainings of {short.seconds:.0f} s"
    return expected_dice(measured, how, confidence)


def _folds(groups: Sequence[Sequence[int]], most: int | None) -> list[list[int]]:
    """Indices of the cases held out in each training; two parts of the only image count as two."""
    if len(groups) == 1:
        return [[0], [0]]
    if most is not None:
        step = max(len(groups) / most, 1)
        return [list(groups[int(number * step)]) for number in range(min(most, len(groups)))]
    count = min(len(groups), FOLDS)
    return [[index for group in groups[fold::count] for index in group] for fold in range(count)]


def groups_of(data: TrainingSet) -> list[list[int]]:
    """Indices of the cases, those of the same image together."""
    groups: dict[str, list[int]] = {}
    for index, case in enumerate(data.loaded):
        groups.setdefault(case.voxels_sha256, []).append(index)
    return list(groups.values())


def score(predictor: Predictor, case: LoadedCase, task: DenseTask, *, should_stop: ShouldStop = never_stop) -> Scores:
    """Case -> structure -> Dice on the image's own grid, of the structures that the adapter knows and the case has.

    Args:
        predictor: of an adapter that may know fewer structures than the task.
        case: its label is in the order of ``task``; where nothing was annotated, nothing counts.
        task: of the case.
        should_stop: asked at every window.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    known = predictor.card.task.labels
    order = np.array([0, *(task.values.get(name, 0) for name in known)], np.uint8)
    found = predictor.segment(case.image, should_stop=should_stop)
    return score_segmentation(order[found], case, task, known)


def _score_with_confidence(predictor: Predictor, case: LoadedCase, task: DenseTask) -> tuple[Scores, Scores]:
    """Dice as of :func:`score`, and the confidence of the same structures."""
    known = predictor.card.task.labels
    order = np.array([0, *(task.values.get(name, 0) for name in known)], np.uint8)
    prediction = predictor.predict(case.image)
    dice = score_segmentation(order[prediction.labels], case, task, known)
    return dice, {case: {name: prediction.confidence[name] for name in each} for case, each in dice.items()}


def score_segmentation(found: npt.NDArray[np.uint8], case: LoadedCase, task: DenseTask, known: Sequence[str]) -> Scores:
    """The Dice of a segmentation in the order of ``task``; see :func:`score`."""
    from fm3d_core.evaluation.truth import Truth

    label = case.label.array
    annotated = np.array([case.annotated is None or value in case.annotated for value in range(task.classes)])
    truth = Truth(np.where(label == IGNORED, 0, label).astype(np.uint8), label != IGNORED, annotated)
    scores = dice_per_label(truth.comparable(found), truth.labels, task.labels)
    drawn = {name for name, value in task.values.items() if (truth.labels == value).any()}
    kept = {name: dice for name, dice in scores.items() if name in known and name in drawn}
    return {case.name: kept} if kept else {}


def _within(data: TrainingSet, learn: Callable[[TrainingSet, int], Predictor]) -> ExpectedDice | None:
    """Dice in the slabs that were held out of the only image, or of its first label if it has several."""
    from fm3d_core.adaptation.cases import prepare_cases
    from fm3d_core.evaluation.slab_folds import slab_folds

    scores: dict[str, list[float]] = {}
    case = data.loaded[0]
    for number, fold in enumerate(slab_folds(case), start=1):
        assert data.task.preprocessing is not None
        prepared = prepare_cases([fold.learned], data.task.preprocessing)
        part = replace(data, loaded=(fold.learned,), prepared=tuple(prepared)).only([0])
        if part is None:
            continue
        for found in score(learn(part, number), fold.held_out, data.task).values():
            for name, dice in found.items():
                scores.setdefault(name, []).append(dice)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return expected_dice({case.name: means}, "slabs of the one volume held out; other patients may differ")


def _in_fold(progress: ProgressCallback, fold: int, count: int) -> ProgressCallback:
    """The same events, with the fold before the stage's name."""

    def report(event: Progress) -> None:
        progress(replace(event, stage=f"checking {fold} of {count}: {event.stage}"))

    return report
