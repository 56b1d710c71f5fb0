"""What Dice to expect of an adapter on a volume it has not seen, as its card keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

COVERAGE = 0.8  # share of further volumes that the interval is meant to hold


@dataclass(frozen=True)
class ExpectedDice:
    """Dice measured on labelled volumes that were held out of training.

    Attributes:
        mean: over the held-out volumes, each the mean of its structures.
        low, high: where the Dice of a further volume is expected in 80 % of cases; None for a single volume.
        cases: held-out volume -> its mean Dice.
        structures: structure -> mean Dice over the held-out volumes that have it.
        how: how it was measured, in words.
        confidence: structure -> mean confidence of the held-out segmentations
            (:attr:`fm3d_core.inference.Prediction.confidence`), what one would expect without their truth.
        measured: ``mean`` before it was corrected; None: it was not.
    """

    mean: float
    low: float | None
    high: float | None
    cases: dict[str, float]
    structures: dict[str, float]
    how: str
    confidence: dict[str, float] = field(default_factory=dict)
    measured: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExpectedDice:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            TypeError, ValueError: not the data of one.
        """
        made = cls(**data)
        return cls(
            float(made.mean),
            None if made.low is None else float(made.low),
            None if made.high is None else float(made.high),
            {str(name): float(value) for name, value in made.cases.items()},
            {str(name): float(value) for name, value in made.structures.items()},
            str(made.how),
            {str(name): float(value) for name, value in made.confidence.items()},
            None if made.measured is None else float(made.measured),
        )

    def corrected(self, factor: float, spread: float | None = None, least: float = 0.0) -> ExpectedDice:
        """With another error: 1 - Dice becomes ``factor`` times as large.

        Args:
            factor: by which this way of measuring is wrong, as known from other sets.
            spread: standard deviation of the Dice of further volumes around the corrected figure, as known from other
                sets; for a figure that has no interval of its own.
            least: of that deviation: two or three held-out volumes may come out alike by chance.
        """

        def changed(dice: float) -> float:
            return round(min(max(1 - factor * (1 - dice), 0.0), 1.0), 4)

        mean, low, high = changed(self.mean), self.low, self.high
        how = self.how
        measured = self.measured
        if factor != 1:
            measured = self.mean if measured is None else measured
            done = "lowered" if mean < self.mean else "raised"
            how += f"; {done} by {abs(mean - self.mean):.2f}, as known from other sets"
        if low is None and spread is not None:
            half = NormalDist().inv_cdf((1 + COVERAGE) / 2) * spread
            low, high = round(max(mean - half, 0.0), 4), round(min(mean + half, 1.0), 4)
            how += "; the interval is that of other sets"
        elif low is not None and high is not None:
            half = NormalDist().inv_cdf((1 + COVERAGE) / 2) * least
            low = round(max(min(changed(low), mean - half), 0.0), 4)
            high = round(min(max(changed(high), mean + half), 1.0), 4)
        cases = {name: changed(dice) for name, dice in self.cases.items()}
        structures = {name: changed(dice) for name, dice in self.structures.items()}
        return replace(
            self, mean=mean, low=low, high=high, cases=cases, structures=structures, how=how, measured=measured
        )

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def expected_dice(
    cases: Mapping[str, Mapping[str, float]],
    how: str,
    confidence: Mapping[str, Mapping[str, float]] | None = None,
) -> ExpectedDice | None:
    """Sum up what was measured.

    The interval is the prediction interval of Student's t for one further value from the same normal distribution,
    mean +- t(n - 1) s sqrt(1 + 1/n), cut to 0 to 1 (for example Hahn and Meeker 1991, section 4.3).

    Args:
        cases: held-out volume -> structure -> Dice; NaN where a structure could not be measured.
        how: it was measured.
        confidence: held-out volume -> structure -> confidence of the segmentation, of the same structures.

    Returns:
        None if nothing could be measured.
    """
    per_case = {name: _mean(list(scores.values())) for name, scores in cases.items()}
    per_case = {name: score for name, score in per_case.items() if not math.isnan(score)}
    if not per_case:
        return None
    measured = _means(cases)
    values = list(per_case.values())
    low, high = _interval(values)
    rounded = {name: round(score, 4) for name, score in per_case.items()}
    return ExpectedDice(round(_mean(values), 4), low, high, rounded, measured, how, _means(confidence or {}))


def _means(cases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Structure -> mean over the volumes in which it is known."""
    names = dict.fromkeys(structure for figures in cases.values() for structure in figures)
    means = {name: _mean([figures[name] for figures in cases.values() if name in figures]) for name in names}
    return {name: round(value, 4) for name, value in means.items() if not math.isnan(value)}


def _interval(values: list[float]) -> tuple[float | None, float | None]:
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return None, None
    mean = _mean(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(t.ppf((1 + COVERAGE) / 2, count - 1)) * deviation * math.sqrt(1 + 1 / count)
    return round(max(mean - half, 0.0), 4), round(min(mean + half, 1.0), 4)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
