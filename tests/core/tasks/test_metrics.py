"""Figures over volumes against values counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fm3d_core.tasks import ClassificationTask, MultilabelTask, RegressionTask, SurvivalTask
from fm3d_core.tasks.metrics import (
    area_under_curve,
    average_precision,
    balanced_accuracy,
    concordance_index,
    selection_score,
)


def test_area_under_curve_counts_pairs_and_ties_half() -> None:
    scores, truth = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert area_under_curve(scores, truth) == pytest.approx(3.5 / 4)
    assert math.isnan(area_under_curve(scores, np.ones(4, bool)))


def test_average_precision_is_precision_at_each_gain_of_recall() -> None:
    scores, truth = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, truth) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.zeros(4), truth) == pytest.approx(0.5)
    assert math.isnan(average_precision(scores, np.zeros(4, bool)))


def test_balanced_accuracy_counts_each_class_alike() -> None:
    assert balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1])) == 1
    assert balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])) == 0.5


def test_concordance_counts_the_pairs_whose_order_is_known() -> None:
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    # known pairs: 1-2, 1-3, 1-4, 3-4
    assert concordance_index(np.array([4.0, 9.0, 3.0, 2.0]), times, events) == pytest.approx(3 / 4)
    assert concordance_index(np.zeros(4), times, events) == 0.5
    assert math.isnan(concordance_index(times, times, np.zeros(4, bool)))


def test_each_task_names_what_tells_the_best_network() -> None:
    two = ClassificationTask(("N", "P"))
    figures = two.measure(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([[0.0], [1.0], [0.0]]))
    assert figures == pytest.approx({"accuracy": 2 / 3, "balanced_accuracy": 0.75, "auc": 1.0})
    assert selection_score(figures, two.selected_by) == pytest.approx(0.875)
    years = RegressionTask("age").measure(np.array([[1.0], [3.0]]), np.array([[2.0], [5.0]]))
    assert years == pytest.approx({"mae": 1.5, "correlation": 1.0}) and selection_score(years, ("mae",)) == -1.5
    curves = np.array([[0.1, 0.0], [0.9, 0.8]])
    assert SurvivalTask(bins=2).measure(curves, np.array([[1.0, 1.0], [5.0, 0.0]])) == {"c_index": 1.0}
    found = MultilabelTask(("a", "b")).measure(np.array([[0.9, 0.5], [0.1, 0.5]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert found == {"map": 1.0, "auc": 1.0}
