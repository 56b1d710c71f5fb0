"""Two versions on the same submitted cases: which is better, and whether the cases can show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fm3d_core.adaptation import AdapterStore, LabeledCase
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, StageClock
from MonaiLabelApp.lib.errors import told_as


def compare_versions(
    store: AdapterStore,
    versions: tuple[int, int],
    cases: Sequence[LabeledCase],
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> dict[str, Any]:
    """Segment every case with both versions and compare their mean Dice.

    Means, difference and p (paired Wilcoxon) are over the cases that neither version has learned from; only if there
    is none, over all, and the verdict then says that it tells nothing of further volumes.

    Args:
        store: the versions.
        versions: which two.
        cases: with submitted labels.
        progress, should_stop: as everywhere.

    Returns:
        ``cases``: id -> {"a": Dice, "b": Dice}; ``mean_a``, ``mean_b``, ``difference`` (b minus a), ``p``,
        ``learned_from``: ids that either has learned from; ``verdict`` in words. What cannot be measured is None.

    Raises:
        SettingsError: the versions have no structure in common.
        FM3DError: an adapter or a case cannot be used.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.evaluation import compare_paired, verdict
    from fm3d_core.inference import Predictor

    predictors = [Predictor(store.load(version)) for version in versions]
    one, other = (predictor.card.task.labels for predictor in predictors)
    structures = [name for name in one if name in other]
    if not structures:
        raise SettingsError("the versions have no structure in common", remedy="Compare versions of the same labels")
    scores: dict[str, tuple[float, float]] = {}
    learned: list[str] = []
    clock = StageClock("segmenting and comparing", len(cases), progress)
    for done, case in enumerate(cases):
        clock.report(done)
        if should_stop():
            raise Stopped("The comparison")
        with told_as(case.name):
            first, second, known = _scores(case, predictors, structures, clock, done, should_stop)
        scores[case.name] = first, second
        if known:
            learned.append(case.name)
    clock.report(len(cases))
    counted = [name for name in scores if name not in learned] or list(scores)
    compared = compare_paired([scores[name][0] for name in counted], [scores[name][1] for name in counted])
    words = verdict(compared, *(f"version {version}" for version in versions))
    if len(learned) == len(scores):
        words = f"every case was learned from, so this says nothing of further volumes; on these: {words}"
    return {
        "cases": {name: {"a": _plain(a), "b": _plain(b)} for name, (a, b) in scores.items()},
        "mean_a": _plain(_mean([scores[name][0] for name in counted])),
        "mean_b": _plain(_mean([scores[name][1] for name in counted])),
        "difference": _plain(compared.difference.mean),
        "p": _plain(compared.p),
        "learned_from": learned,
        "verdict": words,
    }


def _scores(
    case: LabeledCase,
    predictors: Sequence[Any],
    structures: Sequence[str],
    clock: StageClock,
    done: int,
    should_stop: ShouldStop,
) -> tuple[float, float, bool]:
    """Mean Dice of both, and whether either has learned from the case."""
    import numpy as np

    from fm3d_core.adaptation.cases import sha256_of_image, sha256_of_voxels
    from fm3d_core.evaluation import dice_per_label, mean_dice
    from fm3d_core.evaluation.truth import read_truth
    from fm3d_core.volumes import read_volume

    volume = read_volume(case.image)
    values = dict(case.values) if case.values is not None else predictors[0].card.task.values
    here = [name for name in structures if name in values]
    truth = read_truth(case.label, volume, values, here, case.annotation)
    hashes = {sha256_of_voxels(volume), sha256_of_image(case.image)}
    figures = []
    for number, predictor in enumerate(predictors):

        def show(event: Progress, number: int = number) -> None:
            within = event.step / event.total if event.total else 0.0
            clock.report(done, fraction=(done + (number + within) / 2) / clock.total)

        table = np.zeros(256, np.uint8)
        for index, name in enumerate(here, start=1):
            table[predictor.card.task.values[name]] = index
        segmentation = table[predictor.segment(volume, progress=show, should_stop=should_stop)]
        figures.append(mean_dice(dice_per_label(truth.comparable(segmentation), truth.labels, here)))
    learned = [used for predictor in predictors for used in predictor.card.cases]
    known = any(hashes & {used.voxels_sha256, used.image_sha256} for used in learned)
    return figures[0], figures[1], known


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)
