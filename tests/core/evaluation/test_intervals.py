"""Intervals of means and paired comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from fm3d_core.evaluation import compare_paired, mean_with_interval, verdict

FIGURES = [0.71, 0.82, 0.80, 0.77, 0.90, 0.66, 0.85, 0.79]


def test_the_interval_of_a_mean_holds_it_and_is_the_same_every_time() -> None:
    one = mean_with_interval(FIGURES)
    assert one.mean == pytest.approx(np.mean(FIGURES)) and one.count == 8 and not one.note
    assert one.low < one.mean < one.high
    error = np.std(FIGURES, ddof=1) / math.sqrt(8)
    assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert mean_with_interval(FIGURES) == one


def test_a_skewed_sample_has_a_skewed_interval() -> None:
    distances = mean_with_interval([2.0, 2.1, 2.4, 2.2, 3.0, 2.5, 2.3, 21.0])
    assert distances.high - distances.mean > 1.5 * (distances.mean - distances.low)


def test_the_interval_holds_the_true_mean_about_as_often_as_said() -> None:
    random = np.random.default_rng(0)
    intervals = [mean_with_interval(random.normal(size=20)) for _ in range(150)]
    assert 0.87 < np.mean([one.low <= 0 <= one.high for one in intervals]) <= 0.99


@pytest.mark.parametrize(
    ("values", "count", "note"),
    [
        ([], 0, "nothing was measured"),
        ([math.nan], 0, "nothing was measured"),
        ([0.5, math.nan], 1, "no interval from 1 case"),
        ([0.5, 0.7], 2, "no interval from 2 cases"),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], 4, "no interval: all 4 values are equal"),
        ([0.0, 0.0, 0.0], 3, "no interval: all 3 values are equal"),
    ],
)
def test_where_there_is_no_interval_the_reason_is_said(values: list[float], count: int, note: str) -> None:
    one = mean_with_interval(values)
    assert (one.count, one.note) == (count, note) and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(one.mean) == (count == 0)


def test_a_figure_that_is_missing_is_not_counted() -> None:
    assert mean_with_interval([*FIGURES, math.nan]) == mean_with_interval(FIGURES)


def test_a_consistent_gain_is_shown_by_eight_cases_and_not_by_five() -> None:
    better = [value + 0.01 * index for index, value in enumerate(FIGURES, start=1)]
    comparison = compare_paired(FIGURES, better)
    assert comparison.count == 8 and comparison.shown and comparison.direction == 1
    assert comparison.p == pytest.approx(2 / 2**8) == pytest.approx(wilcoxon(better, FIGURES).pvalue)
    assert comparison.difference.mean == pytest.approx(0.045) == pytest.approx(comparison.median_difference)
    assert 0 < comparison.difference.low < 0.045 < comparison.difference.high
    assert verdict(comparison, "A", "B") == "B is better"
    assert verdict(comparison, "A", "B", lower_is_better=True) == "A is better"
    assert verdict(compare_paired(better, FIGURES), "A", "B") == "A is better"

    few = compare_paired(FIGURES[:5], better[:5])
    assert few.p == pytest.approx(2 / 2**5) and not few.shown
    assert verdict(few, "A", "B") == "no difference can be shown with 5 cases"


def test_differences_both_ways_show_nothing() -> None:
    other = [value + (0.03 if index % 2 else -0.03) * (1 + index / 10) for index, value in enumerate(FIGURES)]
    comparison = compare_paired(FIGURES, other)
    assert comparison.p > 0.3 and comparison.difference.low < 0 < comparison.difference.high
    assert verdict(comparison, "A", "B") == "no difference can be shown with 8 cases"


def test_equal_adapters_and_adapters_without_a_common_figure_show_nothing() -> None:
    same = compare_paired(FIGURES, FIGURES)
    assert (same.p, same.direction, same.shown) == (1, 0, False)
    none = compare_paired([math.nan, 0.5], [0.5, math.nan])
    assert none.count == 0 and math.isnan(none.p) and math.isnan(none.median_difference) and not none.shown
    assert verdict(none, "A", "B") == "no difference can be shown with 0 cases"


def test_a_pair_counts_only_with_both_figures() -> None:
    comparison = compare_paired([1.0, math.nan, 2.0], [1.5, 2.0, math.nan])
    assert comparison.count == 1 and comparison.difference.mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="3 figures against 2"):
        compare_paired([1, 2, 3], [1, 2])
