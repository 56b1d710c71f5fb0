"""What an adapter is worth on labelled volumes that it has not learned from: nothing needs to be held out for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.expected_dice import expected_dice
from fm3d_core.errors import Stopped
from fm3d_core.evaluation.cross_validation import Scores, score
from fm3d_core.inference import Predictor
from fm3d_core.progress import ShouldStop

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter
    from fm3d_core.adaptation.cases import LoadedCase
    from fm3d_core.adaptation.training_set import TrainingSet
    from fm3d_core.tasks import DenseTask

MOST = 3  # volumes that an untrained adapter is measured on: a large network takes minutes for each on a CPU


def measured_on(
    adapter: Adapter, cases: Sequence[LoadedCase], task: DenseTask, device: str, should_stop: ShouldStop
) -> Scores:
    """Case -> structure -> Dice.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    predictor = Predictor(adapter, device)
    found: Scores = {}
    for case in cases:
        if should_stop():
            raise Stopped("Training")
        found |= score(predictor, case, task, should_stop=should_stop)
    return found


def with_estimate(adapter: Adapter, data: TrainingSet, device: str, should_stop: ShouldStop) -> Adapter:
    """An adapter that was not trained at all, measured on some of the labelled volumes."""
    found = measured_on(adapter, data.loaded[:MOST], data.task, device, should_stop)
    expected = expected_dice(found, "measured on labelled volumes; it has learned from none")
    return replace(adapter, card=replace(adapter.card, expected_dice=expected))
