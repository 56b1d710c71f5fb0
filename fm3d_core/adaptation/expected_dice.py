"""What Dice to expect of an adapter on a volume it has not seen, as its card keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    mean: float
    low: float | None
    high: float | None
    cases: dict[str, float]
    structures: dict[str, float]
    how: str

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
        )

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def expected_dice(cases: Mapping[str, Mapping[str, float]], how: str) -> ExpectedDice | None:
    """Sum up what was measured.

    The interval is the prediction interval of Student's t for one further value from the same normal distribution,
    mean +- t(n - 1) s sqrt(1 + 1/n), cut to 0 to 1 (for example Hahn and Meeker 1991, section 4.3).

    Args:
        cases: held-out volume -> structure -> Dice; NaN where a structure could not be measured.
        how: it was measured.

    Returns:
        None if nothing could be measured.
    """
    per_case = {name: _mean(list(scores.values())) for name, scores in cases.items()}
    per_case = {name: score for name, score in per_case.items() if not math.isnan(score)}
    if not per_case:
        return None
    names = dict.fromkeys(structure for scores in cases.values() for structure in scores)
    structures = {name: _mean([scores[name] for scores in cases.values() if name in scores]) for name in names}
    measured = {name: round(score, 4) for name, score in structures.items() if not math.isnan(score)}
    values = list(per_case.values())
    low, high = _interval(values)
    rounded = {name: round(score, 4) for name, score in per_case.items()}
    return ExpectedDice(round(_mean(values), 4), low, high, rounded, measured, how)


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
