"""Figures of answers about whole volumes: against scikit-learn where it is there, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fm3d_core.evaluation.volume_figures import (
    confusion_matrix,
    errors_of_cases,
    figures_of,
    figures_per_class,
    figures_with_intervals,
)
from fm3d_core.tasks import ClassificationTask, MultilabelTask, RegressionTask, SurvivalTask


def drawn(classes: int, cases: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know a little of the truth."""
    generator = np.random.default_rng(3)
    truth = generator.integers(0, classes, cases)
    scores = generator.normal(0, 1, (cases, classes))
    scores[np.arange(cases), truth] += 1
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return probabilities, truth[:, None].astype(float)


@pytest.mark.parametrize("classes", [2, 4])
def test_of_classes(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, targets = drawn(classes)
    truth, said = targets[:, 0].astype(int), probabilities.argmax(1)
    task = ClassificationTask(tuple(f"class {index}" for index in range(classes)))
    found = figures_of(task, probabilities, targets)
    average = "binary" if classes == 2 else "macro"
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said, average=average))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, said))
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores, multi_class="ovr"))
    one_hot = np.eye(classes)[truth]
    assert found["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean())
    per_class = figures_per_class(task, probabilities, targets)["class 1"]
    assert per_class["ap"] == pytest.approx(metrics.average_precision_score(truth == 1, probabilities[:, 1]))
    assert per_class["sensitivity"] == pytest.approx(metrics.recall_score(truth == 1, said == 1))
    assert per_class["count"] == (truth == 1).sum()
    matrix = confusion_matrix(said, truth, classes)
    assert np.array_equal(matrix, metrics.confusion_matrix(truth, said))
    if classes == 2:
        assert found["specificity"] == pytest.approx(metrics.recall_score(truth == 0, said == 0))


def test_of_findings() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth = (generator.random((80, 3)) < [0.5, 0.2, 0.7]).astype(float)
    said = np.clip(0.3 * truth + 0.7 * generator.random((80, 3)), 0, 1)
    found = figures_of(MultilabelTask(("a", "b", "c")), said, truth)
    assert found["map"] == pytest.approx(metrics.average_precision_score(truth, said, average="macro"))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said > 0.5, average="macro"))


def test_of_values() -> None:
    said, truth = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [2.0], [2.5]])
    found = figures_of(RegressionTask("age"), said, truth)
    assert found["mae"] == pytest.approx(2.5 / 3) and found["bias"] == pytest.approx(0.5 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(3.25 / 3))
    assert found["r2"] == pytest.approx(1 - (3.25 / 3) / truth.var())


def test_the_worst_cases_are_those_that_are_most_wrong() -> None:
    classes = ClassificationTask(("a", "b"))
    said, truth = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([[0.0], [0.0], [1.0]])
    assert errors_of_cases(classes, said, truth) == pytest.approx([0.1, 0.8, 0.4])
    findings = errors_of_cases(MultilabelTask(("a", "b")), np.array([[0.9, 0.4]]), np.array([[1.0, 0.0]]))
    assert findings == pytest.approx([0.25])
    # risks 3, 2, 1 (survival 0, -...): the third dies first although its risk is the lowest; the last says nothing
    curves = np.array([[0.1, 0.0], [0.5, 0.4], [0.9, 0.8], [0.5, 0.5]])
    times = np.array([[5.0, 1.0], [6.0, 1.0], [1.0, 1.0], [0.5, 0.0]])
    wrong = errors_of_cases(SurvivalTask(bins=2), curves, times)
    assert wrong[:3] == pytest.approx([0.5, 0.5, 1.0]) and math.isnan(wrong[3])


def test_intervals_hold_the_figure_and_narrow_with_the_cases() -> None:
    task = ClassificationTask(("a", "b", "c"))
    many, few = (figures_with_intervals(task, *drawn(3, cases)) for cases in (400, 40))
    for name in ("auc", "f1", "balanced_accuracy"):
        assert many[name].low < many[name].mean < many[name].high
        assert many[name].high - many[name].low < few[name].high - few[name].low
