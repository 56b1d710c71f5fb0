"""How good the segmentation of one new volume probably is: an expected Dice with an interval, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError
from fm3d_core.inference.quality_model import QualityModel, quality_model
from fm3d_core.inference.quality_signals import Signals, signals_of
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop

if TYPE_CHECKING:
    from fm3d_core.adaptation.size_prior import SizePrior
    from fm3d_core.inference.prediction import Prediction
    from fm3d_core.inference.predictor import Predictor
    from fm3d_core.inference.reverse_check import References

DOUBTFUL = 0.6  # below this, a signal is worth a sentence


@dataclass(frozen=True)
class CaseQuality:
    """What Dice to expect of one segmentation.

    Attributes:
        value: expected mean Dice of its structures.
        low, high: where the true mean Dice lies in 80 % of cases.
        reasons: what speaks against it, in words, the worst structure first; empty where nothing does.
        structures: structure -> its own expected Dice; 0 where it was not found.
        signals: structure -> what was measured.
    """

    value: float
    low: float
    high: float
    reasons: tuple[str, ...]
    structures: dict[str, float] = field(default_factory=dict)
    signals: dict[str, dict[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "reasons": list(self.reasons),
            "structures": {name: round(dice, 4) for name, dice in self.structures.items()},
            "signals": {name: {k: round(v, 4) for k, v in each.items()} for name, each in self.signals.items()},
        }


def case_quality(
    predictor: Predictor,
    prediction: Prediction,
    *,
    references: References | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> CaseQuality:
    """Judge a prediction without its truth.

    Args:
        predictor: that made it.
        prediction: of :meth:`Predictor.predict`; with ``variants``, its stability counts too.
        references: labelled volumes for the reverse check, of :func:`fm3d_core.inference.references_of`.
        progress: receives the stage "checking".
        should_stop: asked at every window.

    Raises:
        SettingsError: the structures are regions that overlap, of which the model of quality knows nothing.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.size_prior import size_priors

    if not predictor.card.task.exclusive:
        raise SettingsError(
            "which Dice to expect is known of exclusive structures only, not of regions that overlap",
            remedy="Look at the uncertainty instead",
        )
    signals = signals_of(predictor, prediction, references, progress=progress, should_stop=should_stop)
    return judge(signals, prediction.sizes, size_priors(predictor.card.sizes))


def judge(
    signals: Mapping[str, Signals],
    sizes: Mapping[str, float],
    priors: Mapping[str, SizePrior],
    model: QualityModel | None = None,
) -> CaseQuality:
    """Sum up the signals.

    A structure that was not found counts as 0 where all labelled volumes have it; where one of them lacks it too, it
    may be absent here and is not counted.

    Args:
        signals: of each structure.
        sizes: of each structure, ml.
        priors: of each structure whose size in the labelled volumes is known.
        model: None for the one that comes with FM3D.
    """
    model = model or quality_model()
    estimates = {name: model.estimate(each.known()) for name, each in signals.items() if sizes[name] > 0}
    missing = [name for name in signals if sizes[name] == 0 and not (name in priors and priors[name].absent)]
    if estimates:
        value, low, high = model.together_in(list(estimates.values()))
        share = len(estimates) / (len(estimates) + len(missing))  # those not found have a Dice of 0
        value, low, high = value * share, low * share, high * share
    else:
        value, low, high = 0.0, 0.0, 0.0
    found = {**dict.fromkeys(missing, 0.0), **{name: each.dice for name, each in estimates.items()}}
    order = sorted(signals, key=lambda name: found.get(name, 1.0))
    reasons = [said for name in order for said in _reasons(name, signals[name], sizes[name], priors.get(name))]
    return CaseQuality(value, low, high, tuple(reasons), found, {name: each.known() for name, each in signals.items()})


def _reasons(name: str, signals: Signals, size: float, prior: SizePrior | None) -> list[str]:
    """What speaks against a structure."""
    if size == 0:
        return [f"{name} was not found"]
    reasons = []
    if prior is not None and not prior.ordinary(size):
        relative = prior.relative(size)
        much = f"{abs(relative):.0%}" if relative < 1 else f"{relative + 1:.1f} times"
        how = "smaller than" if relative < 0 else "larger than" if relative < 1 else "as large as"
        reasons.append(f"{name} is {much} {how} in the labelled volumes ({size:.3g} ml, there {prior.mean:.3g} ml)")
    if signals.agreement is not None and signals.agreement < DOUBTFUL:
        reasons.append(
            f"{name}: the first, linear stage of the training marks other voxels (Dice {signals.agreement:.2f})"
        )
    if signals.stability is not None and signals.stability < DOUBTFUL + 0.15:
        reasons.append(f"{name} changes with small changes of the image (Dice {signals.stability:.2f})")
    if signals.reverse is not None and signals.reverse < DOUBTFUL:
        reasons.append(f"{name}: learned from this segmentation, the labelled volumes would be found badly")
    if signals.confidence < DOUBTFUL:
        reasons.append(f"{name}: the network is unsure of many of its voxels")
    return reasons
