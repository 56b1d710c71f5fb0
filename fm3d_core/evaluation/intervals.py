"""What a mean over a few cases is worth: bootstrap intervals, and paired comparisons of two adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST_FOR_INTERVAL = 3  # a resampling of one or two values has nothing to say
FEWEST_FOR_TEST = 6  # of five pairs even the most extreme order has p = 2 / 2^5 = 0.0625
LEVEL = 0.05
_RESAMPLES = 9999
SAMPLES = 1000  # of the cases, for figures that are no means; as many as 3DINO's paper takes
_SEED = 0  # the same figures give the same interval


@dataclass(frozen=True)
class MeanInterval:
    """A mean over cases with its 95 % interval.

    Attributes:
        mean: NaN without any value.
        low, high: ends of the interval; NaN where there is none, and ``note`` says why.
        count: how many values were measured.
        note: empty, or why there is no interval.
    """

    mean: float
    low: float
    high: float
    count: int
    note: str = ""


@dataclass(frozen=True)
class PairedComparison:
    """How the second of two adapters differs from the first on the same cases.

    Attributes:
        count: pairs with a figure in both.
        difference: mean of second minus first, with its interval.
        median_difference: of second minus first; NaN without pairs.
        p: of the paired Wilcoxon signed-rank test, two-sided; 1 if no pair differs; NaN without pairs.
        direction: 1 if the test's ranks lie higher in the second, -1 if in the first, 0 if they are balanced.
    """

    count: int
    difference: MeanInterval
    median_difference: float
    p: float
    direction: int

    @property
    def shown(self) -> bool:
        """Whether the cases show a difference: at least six pairs and p below 0.05."""
        return self.count >= FEWEST_FOR_TEST and self.p < LEVEL


def mean_with_interval(values: Sequence[float]) -> MeanInterval:
    """The mean of the values that are numbers, with the bias-corrected and accelerated bootstrap interval (scipy).

    The interval speaks of other cases like these, not of another training of the adapter. Of few cases it is too
    narrow: of 1000 draws of normal values, it held the true mean in 72 % with 3 cases, 85 % with 5, 91 % with 10 and
    93 % with 20.

    Args:
        values: one per case; NaN is not counted. Without an interval are fewer than three values, and equal values.
    """
    measured = _numbers(values)
    count = len(measured)
    if count == 0:
        return MeanInterval(math.nan, math.nan, math.nan, 0, "nothing was measured")
    mean = float(measured.mean())
    if count < FEWEST_FOR_INTERVAL:
        return MeanInterval(mean, math.nan, math.nan, count, f"no interval from {count} case{'s' * (count > 1)}")
    if np.ptp(measured) <= 1e-9 * np.abs(measured).max():
        return MeanInterval(mean, math.nan, math.nan, count, f"no interval: all {count} values are equal")

    from scipy.stats import bootstrap

    result = bootstrap(
        (measured,), np.mean, confidence_level=0.95, n_resamples=_RESAMPLES, method="BCa", random_state=_SEED
    )
    low, high = (float(end) for end in result.confidence_interval)
    return MeanInterval(mean, low, high, count)


def figure_with_interval(
    figure: Callable[[npt.NDArray[np.int64]], float], count: int, samples: int = SAMPLES
) -> MeanInterval:
    """A figure over cases that is no mean, such as an AUC, with its 95 % percentile bootstrap interval.

    Args:
        figure: of the cases with these indices, some of them perhaps several times; NaN where they do not tell.
        count: how many cases there are.
        samples: how often ``count`` cases are drawn; draws that do not tell do not count.
    """
    value = figure(np.arange(count)) if count else math.nan
    if math.isnan(value):
        return MeanInterval(math.nan, math.nan, math.nan, count, "these cases do not tell")
    if count < FEWEST_FOR_INTERVAL:
        return MeanInterval(value, math.nan, math.nan, count, f"no interval from {count} case{'s' * (count > 1)}")
    draws = np.random.default_rng(_SEED).integers(0, count, (samples, count))
    found = _numbers([figure(draw) for draw in draws])
    if len(found) < samples / 2:
        return MeanInterval(value, math.nan, math.nan, count, "no interval: most draws of the cases do not tell")
    low, high = (float(end) for end in np.percentile(found, (100 * LEVEL / 2, 100 * (1 - LEVEL / 2))))
    return MeanInterval(value, low, high, count)


@dataclass(frozen=True)
class RunsComparison:
    """Figures of several trainings of one kind against several of another.

    Attributes:
        means, deviations: of the first and the second.
        counts: runs.
        p: of Welch's t test, two-sided; NaN with fewer than two runs of one, or where no run differs.
    """

    means: tuple[float, float]
    deviations: tuple[float, float]
    counts: tuple[int, int]
    p: float


def compare_runs(first: Sequence[float], second: Sequence[float]) -> RunsComparison:
    """Welch's t test of the figures of independent runs, such as five seeds each.

    It speaks of other trainings on the same cases, not of other cases.
    """
    from scipy.stats import ttest_ind

    one, other = _numbers(first), _numbers(second)
    spread = max((float(np.ptp(each)) for each in (one, other) if len(each)), default=0.0)
    enough = min(len(one), len(other)) > 1 and spread > 1e-9
    p = float(ttest_ind(one, other, equal_var=False).pvalue) if enough else math.nan
    means = [float(each.mean()) if len(each) else math.nan for each in (one, other)]
    deviations = [float(each.std(ddof=1)) if len(each) > 1 else math.nan for each in (one, other)]
    return RunsComparison((means[0], means[1]), (deviations[0], deviations[1]), (len(one), len(other)), p)


def compare_paired(first: Sequence[float], second: Sequence[float]) -> PairedComparison:
    """Compare two adapters by their figures on the same cases.

    Args:
        first, second: figures of the same cases in the same order; a pair with a NaN is not counted.

    Raises:
        ValueError: another number of cases.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} figures against {len(second)}")
    differences = _numbers(np.asarray(second, np.float64) - np.asarray(first, np.float64))
    count = len(differences)
    median = float(np.median(differences)) if count else math.nan
    p, direction = _wilcoxon(differences)
    return PairedComparison(count, mean_with_interval(list(differences)), median, p, direction)


def verdict(comparison: PairedComparison, first: str, second: str, *, lower_is_better: bool = False) -> str:
    """In plain words, which of two adapters is better, or that these cases do not show it.

    Args:
        comparison: of ``second`` with ``first``.
        first, second: how the two are called.
        lower_is_better: true of distances.
    """
    if not comparison.shown or comparison.direction == 0:
        return f"no difference can be shown with {comparison.count} case{'s' * (comparison.count != 1)}"
    higher, lower = (second, first) if comparison.direction > 0 else (first, second)
    return f"{lower if lower_is_better else higher} is better"


def _wilcoxon(differences: npt.NDArray[np.float64]) -> tuple[float, int]:
    """p, and the sign of the sum of signed ranks; pairs without a difference are dropped (Wilcoxon's own rule)."""
    from scipy.stats import rankdata, wilcoxon

    if not len(differences):
        return math.nan, 0
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0, 0
    ranks = float((np.sign(differing) * rankdata(np.abs(differing))).sum())
    return float(wilcoxon(differing).pvalue), int(np.sign(ranks))


def _numbers(values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array[~np.isnan(array)]
