"""Calibration, and intervals of figures that are no means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fm3d_core.evaluation.calibration import expected_calibration_error, reliability
from fm3d_core.evaluation.intervals import compare_runs, figure_with_interval


def test_bins_by_hand() -> None:
    said = np.array([0.95, 0.95, 0.9, 0.2, 0.0])
    right = np.array([True, False, True, False, False])
    bins = reliability(said, right)
    assert [(each.count, each.right) for each in bins] == [(1, 0.0), (1, 0.0), (1, 1.0), (2, 0.5)]
    assert bins[1].said == pytest.approx(0.2) and bins[1].high == pytest.approx(0.2)
    assert expected_calibration_error(said, right) == pytest.approx((0.0 + 0.2 + 0.1 + 2 * 0.45) / 5)
    assert math.isnan(expected_calibration_error(said[:0], right[:0]))


def test_true_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(20_000)
    right = generator.random(20_000) < truth
    assert expected_calibration_error(truth, right) < 0.01
    assert expected_calibration_error(np.sqrt(truth), right) > 0.1


def test_the_interval_of_a_mean_by_percentiles_has_the_width_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3, 2, 200)
    found = figure_with_interval(lambda rows: float(values[rows].mean()), 200)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.mean == pytest.approx(values.mean()) and found.count == 200
    assert found.high - found.mean == pytest.approx(half, rel=0.15)
    assert found.mean - found.low == pytest.approx(half, rel=0.15)
    assert "no interval from 2 cases" in figure_with_interval(lambda rows: 1.0, 2).note
    assert math.isnan(figure_with_interval(lambda rows: math.nan, 9).mean)


def test_welch_is_scipys_and_needs_two_runs() -> None:
    found = compare_runs([0.80, 0.82, 0.81], [0.70, 0.75])
    # t = 0.085 / sqrt(0.01^2 / 3 + 0.035355^2 / 2), degrees of freedom 1.107 (Welch and Satterthwaite)
    assert found.means == pytest.approx((0.81, 0.725)) and found.counts == (3, 2)
    assert found.deviations == pytest.approx((0.01, 0.0353553), abs=1e-6)
    assert found.p == pytest.approx(0.16690, abs=1e-4)
    assert math.isnan(compare_runs([0.8], [0.7, 0.6]).p)
