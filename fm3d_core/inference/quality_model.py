"""From signals to a Dice with an interval: one normal distribution of both, fitted on real volumes.

The Dice of a structure and its signals, on the scale of logits, are taken as jointly normal. Given those signals that
are known, whichever they are, the Dice is normal again (for example Bishop 2006, section 2.3.1): its mean is a linear
regression on them, its spread the interval. ``benchmarks/case_quality.py`` fits it and writes ``quality_model.json``,
which names the volumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = Path(__file__).with_name("quality_model.json")
COVERAGE = 0.8  # share of cases whose Dice the interval is meant to hold, as of ExpectedDice
_NORMAL = 1.2816  # 80 % of a normal distribution lie within so many standard deviations
_CUT = (0.03, 0.98)  # figures are cut to this before their logit is taken: 0 and 1 have none
_ROUNDS = 100  # of expectation maximisation
_RIDGE = 1e-3  # added to the signals' variances: two of them may all but coincide
_WIDENINGS = np.arange(0.0, 6.0, 0.02)  # that are tried


@dataclass(frozen=True)
class Estimate:
    """Dice of one structure: its logit is normal with this mean and standard deviation."""

    mean: float
    deviation: float

    @property
    def dice(self) -> float:
        """The median."""
        return float(_from_logit(np.array(self.mean)))


@dataclass(frozen=True)
class QualityModel:
    """The joint distribution of Dice and signals.

    Attributes:
        names: "dice" and the signals.
        mean: (n,) of each one's logit.
        covariance: (n, n).
        together: correlation of the errors of two structures in one volume.
        widening: factor of the interval, so that 80 % of the volumes it was fitted on lie inside.
        volumes: set -> names of the volumes it was fitted on.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    together: float
    widening: float
    volumes: dict[str, tuple[str, ...]]

    def estimate(self, signals: Mapping[str, float]) -> Estimate:
        """The Dice of a structure given its signals, each from 0 to 1."""
        mean, covariance = np.array(self.mean), np.array(self.covariance)
        names = [name for name in signals if name in self.names]
        known = [self.names.index(name) for name in names]
        within = covariance[np.ix_(known, known)] + _RIDGE * np.eye(len(known))
        slopes = np.linalg.solve(within, covariance[known, 0])
        given = _logit(np.array([signals[name] for name in names]))
        variance = float(covariance[0, 0] - slopes @ covariance[known, 0])
        return Estimate(float(mean[0] + slopes @ (given - mean[known])), math.sqrt(max(variance, 1e-4)))

    def together_in(self, estimates: Sequence[Estimate]) -> tuple[float, float, float]:
        """Mean Dice of several structures of one volume: value, low, high, each from 0 to 1.

        The errors of n structures with a correlation r add up to sqrt((1 + (n - 1) r) / n) of a single one's.
        """
        count = len(estimates)
        means, deviations = (np.array(each) for each in zip(*((e.mean, e.deviation) for e in estimates), strict=True))
        half = _NORMAL * self.widening * deviations * math.sqrt((1 + (count - 1) * self.together) / count)
        value, low, high = (float(_from_logit(means + side).mean()) for side in (0.0, -half, half))
        return value, low, high

    def to_json(self) -> str:
        """As the text of a file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QualityModel:
        """The inverse of :meth:`to_json`, once parsed."""
        return cls(
            tuple(data["names"]),
            tuple(data["mean"]),
            tuple(tuple(row) for row in data["covariance"]),
            float(data["together"]),
            float(data["widening"]),
            {name: tuple(values) for name, values in data["volumes"].items()},
        )


@cache
def quality_model() -> QualityModel:
    """The one that comes with FM3D."""
    return QualityModel.from_dict(json.loads(FILE.read_text(encoding="utf-8")))


def fit_quality_model(
    names: Sequence[str], rows: npt.NDArray[np.float64], cases: Sequence[str], volumes: Mapping[str, Sequence[str]]
) -> QualityModel:
    """Fit the distribution.

    Args:
        names: "dice" and the signals.
        rows: (n, names) one structure of one volume each, all from 0 to 1; NaN where a signal is not known.
        cases: (n,) which volume (and adapter) a row is of.
        volumes: set -> names of the volumes.
    """
    mean, covariance = _normal_of(_logit(rows))
    model = QualityModel(
        tuple(names),
        tuple(np.round(mean, 5).tolist()),
        tuple(tuple(row) for row in np.round(covariance, 5).tolist()),
        0.0,
        1.0,
        {name: tuple(each) for name, each in volumes.items()},
    )
    by_case: dict[str, list[tuple[Estimate, float]]] = {}
    for row, case in zip(rows, cases, strict=True):
        signals = {name: float(value) for name, value in zip(names[1:], row[1:], strict=True) if not np.isnan(value)}
        by_case.setdefault(case, []).append((model.estimate(signals), float(row[0])))
    model = replace(model, together=_correlation(list(by_case.values())))
    needed = []
    for found in by_case.values():
        estimates, dice = [estimate for estimate, _ in found], float(np.mean([dice for _, dice in found]))
        needed.append(_widening_for(model, estimates, dice))
    return replace(model, widening=round(float(np.quantile(needed, COVERAGE)), 4))


def _logit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    cut = np.clip(values, *_CUT)
    result: npt.NDArray[np.float64] = np.log(cut / (1 - cut))
    return result


def _from_logit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = 1 / (1 + np.exp(-values))
    return result


def _normal_of(rows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and covariance of rows of which some values are missing (NaN): expectation maximisation.

    Dempster, Laird and Rubin 1977: what is missing is replaced by its expectation given the rest of the row, and the
    uncertainty of that is added to the covariance, until nothing changes.
    """
    width = rows.shape[1]
    mean = np.nanmean(rows, axis=0)
    covariance = np.diag(np.nanvar(rows, axis=0)) + 1e-6 * np.eye(width)
    for _ in range(_ROUNDS):
        filled, added = np.where(np.isnan(rows), 0.0, rows), np.zeros((width, width))
        for index, row in enumerate(rows):
            missing, known = np.flatnonzero(np.isnan(row)), np.flatnonzero(~np.isnan(row))
            if not missing.size:
                continue
            slopes = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, missing)]).T
            filled[index, missing] = mean[missing] + slopes @ (row[known] - mean[known])
            left = covariance[np.ix_(missing, missing)] - slopes @ covariance[np.ix_(known, missing)]
            added[np.ix_(missing, missing)] += left
        mean = filled.mean(0)
        covariance = ((filled - mean).T @ (filled - mean) + added) / len(rows) + 1e-6 * np.eye(width)
    return mean, covariance


def _correlation(cases: Sequence[Sequence[tuple[Estimate, float]]]) -> float:
    """Correlation of the errors of two structures in one volume, over all pairs."""
    products, squares = [], []
    for found in cases:
        errors = [(float(_logit(np.array(dice))) - estimate.mean) / estimate.deviation for estimate, dice in found]
        squares += [error**2 for error in errors]
        products += [one * other for i, one in enumerate(errors) for other in errors[:i]]
    if not products:
        return 0.0
    return round(min(max(float(np.mean(products) / np.mean(squares)), 0.0), 1.0), 4)


def _widening_for(model: QualityModel, estimates: Sequence[Estimate], dice: float) -> float:
    """The smallest factor with which a volume's interval holds its Dice."""
    for widening in _WIDENINGS.tolist():
        _, low, high = replace(model, widening=widening).together_in(estimates)
        if low <= dice <= high:
            return float(widening)
    return float(_WIDENINGS[-1])
