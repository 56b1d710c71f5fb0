"""What speaks for or against the segmentation of one volume, structure by structure, without its truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fm3d_core.errors import WeightsError
from fm3d_core.inference.frozen_features import FrozenPass, frozen_pass
from fm3d_core.inference.prediction import Prediction, overlap
from fm3d_core.inference.reverse_check import References, reverse_check
from fm3d_core.progress import ProgressCallback, ShouldStop

if TYPE_CHECKING:
    from fm3d_core.inference.predictor import Predictor

FARTHEST = 4.0  # spreads: a size that is further off says no more


@dataclass(frozen=True)
class Signals:
    """Of one structure; None where something is not known.

    Attributes:
        confidence: Dice between the predicted mask and the probabilities it was cut from; an expectation of the true
            Dice if the probabilities were right.
        agreement: Dice between the prediction and that of the linear head that training began with.
        stability: Dice between the prediction and those of slightly changed images.
        size: 1 for the mean size of the labelled volumes, 0 for one that is 4 spreads or more away.
        reverse: how well the predicted mask teaches the labelled volumes, 1 as well as a true one.
        expected: mean Dice of the structure on held-out volumes.
        expected_confidence: the mean confidence there: beside ``expected`` it says how overconfident this training is.
    """

    confidence: float
    agreement: float | None = None
    stability: float | None = None
    size: float | None = None
    reverse: float | None = None
    expected: float | None = None
    expected_confidence: float | None = None

    def known(self) -> dict[str, float]:
        """Those that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def signals_of(
    predictor: Predictor,
    prediction: Prediction,
    references: References | None,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> dict[str, Signals]:
    """Structure -> its signals; those not predicted at all have a confidence of 0.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.size_prior import size_priors

    card = predictor.card
    frozen = _frozen_pass(predictor, prediction, progress, should_stop)
    reverse = reverse_check(frozen.voxels, references, card.task.values) if frozen and references else {}
    priors = size_priors(card.sizes)
    # slabs of the one labelled volume say nothing of other patients
    expected = card.expected_dice if card.expected_dice and card.expected_dice.low is not None else None
    classes = prediction.scores.argmax(0)
    signals = {}
    for name, value in card.task.values.items():
        prior = priors.get(name)
        signals[name] = Signals(
            prediction.confidence[name],
            _known(overlap(classes == value, frozen.classes == value)) if frozen else None,
            _known(prediction.stability.get(name, math.nan)),
            1 - min(abs(prior.deviation(prediction.sizes[name])) / FARTHEST, 1.0) if prior else None,
            reverse.get(name),
            expected.structures.get(name) if expected else None,
            expected.confidence.get(name) if expected else None,
        )
    return signals


def _frozen_pass(
    predictor: Predictor, prediction: Prediction, progress: ProgressCallback, should_stop: ShouldStop
) -> FrozenPass | None:
    try:
        network = predictor.first_network
    except WeightsError:
        return None  # an adapter that holds all weights itself works without the plain backbone's file
    if network is None:
        return None
    return frozen_pass(
        network,
        prediction.prepared.image,
        prediction.scores.argmax(0),
        predictor.card.window,
        prediction.prepared.spacing,
        predictor.device,
        progress=progress,
        should_stop=should_stop,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
