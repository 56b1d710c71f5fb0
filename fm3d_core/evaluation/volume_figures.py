"""How good the answers about whole volumes are: figures over cases, per class, and of each case by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.evaluation.calibration import expected_calibration_error
from fm3d_core.evaluation.intervals import MeanInterval, figure_with_interval
from fm3d_core.tasks.metrics import area_under_curve, average_precision, mean_known
from fm3d_core.tasks.multilabel import THRESHOLD

if TYPE_CHECKING:
    from fm3d_core.tasks import WholeVolumeTask

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "f1": "F1",
    "map": "mAP",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "mae": "MAE",
    "rmse": "RMSE",
    "bias": "mean error",
    "r2": "R²",
    "correlation": "correlation",
    "c_index": "C-index",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ap": "average precision",
}
LESS_IS_BETTER = ("ece", "brier", "mae", "rmse")


def figures_of(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> dict[str, float]:
    """All figures over some cases; NaN where they do not tell.

    Args:
        task: what was asked.
        activated: (n, classes), what :meth:`fm3d_core.tasks.WholeVolumeTask.activate` gives.
        targets: (n, T), what its ``read_target`` gives.
    """
    more = _MORE.get(task.kind)
    return {**task.measure(activated, targets), **(more(activated, targets) if more is not None else {})}


def figures_with_intervals(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> dict[str, MeanInterval]:
    """The same with 95 % bootstrap intervals over the cases.

    Args:
        task, activated, targets: as of :func:`figures_of`.
    """
    kept: dict[bytes, dict[str, float]] = {}

    def figure(rows: npt.NDArray[np.int64], name: str) -> float:
        key = rows.tobytes()  # every figure is of the same draws
        if key not in kept:
            kept[key] = figures_of(task, activated[rows], targets[rows])
        return kept[key][name]

    def named(name: str) -> Callable[[npt.NDArray[np.int64]], float]:
        return lambda rows: figure(rows, name)

    names = figures_of(task, activated, targets)
    return {name: figure_with_interval(named(name), len(targets)) for name in names}


def figures_per_class(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> dict[str, dict[str, float]]:
    """For each class or finding: AUC, average precision, F1, sensitivity, specificity; nothing of other tasks."""
    if task.kind not in ("classification", "multilabel"):
        return {}
    said, truth = _masks(activated, targets)
    return {
        name: {
            "auc": area_under_curve(activated[:, index], truth[:, index]),
            "ap": average_precision(activated[:, index], truth[:, index]),
            "f1": f1(said[:, index], truth[:, index]),
            "sensitivity": _share(said[:, index], truth[:, index]),
            "specificity": _share(~said[:, index], ~truth[:, index]),
            "count": float(truth[:, index].sum()),
        }
        for index, name in enumerate(task.labels)
    }


def confusion_matrix(said: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """(classes, classes) counts: row the truth, column what was said."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, said), 1)
    return counts


def errors_of_cases(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> Numbers:
    """How wrong each case's answer is (n,), higher for worse: the worst cases come first in a report.

    One minus the probability of the true class; the mean of that over findings; the absolute error of a value; of a
    survival how many of the pairs with others whose order is known are the wrong way round (NaN without such a pair).
    """
    return _ERRORS[task.kind](activated, targets)


def f1(said: Mask, truth: Mask) -> float:
    """Harmonic mean of precision and sensitivity; NaN where neither says that anything is there."""
    total = int(said.sum()) + int(truth.sum())
    return 2 * int((said & truth).sum()) / total if total else math.nan


def said_and_true(activated: Numbers, targets: Numbers) -> tuple[Numbers, Mask]:
    """For calibration: probabilities of what was said, and whether it was so.

    Of classes the likeliest one's; of findings all of them.
    """
    if _exclusive(activated, targets):
        return activated.max(1), activated.argmax(1) == targets[:, 0]
    return activated.ravel(), targets.ravel() > 0


def _exclusive(activated: Numbers, targets: Numbers) -> bool:
    """Whether there is one class per case, told by its index."""
    return targets.shape[1] == 1 and activated.shape[1] > 1


def _masks(activated: Numbers, targets: Numbers) -> tuple[Mask, Mask]:
    """What was said and what is true as (n, classes)."""
    if not _exclusive(activated, targets):
        return activated > THRESHOLD, targets > 0
    classes = np.arange(activated.shape[1])
    return activated.argmax(1)[:, None] == classes, targets[:, :1] == classes


def _of_classes(activated: Numbers, targets: Numbers) -> dict[str, float]:
    said, truth = _masks(activated, targets)
    scores = [f1(said[:, index], truth[:, index]) for index in range(said.shape[1])]
    found = {
        "f1": mean_known(scores),
        "ece": expected_calibration_error(*said_and_true(activated, targets)),
        "brier": float(((activated - truth) ** 2).sum(1).mean()),
    }
    if _exclusive(activated, targets) and said.shape[1] == 2:
        found |= {
            "f1": scores[1],
            "sensitivity": _share(said[:, 1], truth[:, 1]),
            "specificity": _share(said[:, 0], truth[:, 0]),
        }
    return found


def _of_values(activated: Numbers, targets: Numbers) -> dict[str, float]:
    errors, spread = activated[:, 0] - targets[:, 0], float(targets[:, 0].var())
    squared = float((errors**2).mean())
    return {
        "rmse": math.sqrt(squared),
        "bias": float(errors.mean()),
        "r2": 1 - squared / spread if spread > 0 else math.nan,
    }


def _share(said: Mask, truth: Mask) -> float:
    return float(said[truth].mean()) if truth.any() else math.nan


def _error_of_class(activated: Numbers, targets: Numbers) -> Numbers:
    return 1 - activated[np.arange(len(activated)), targets[:, 0].astype(int)]


def _error_of_findings(activated: Numbers, targets: Numbers) -> Numbers:
    return np.abs(activated - (targets > 0)).mean(1)


def _error_of_value(activated: Numbers, targets: Numbers) -> Numbers:
    return np.abs(activated[:, 0] - targets[:, 0])


def _error_of_survival(activated: Numbers, targets: Numbers) -> Numbers:
    risk, times, events = -activated.sum(1), targets[:, 0], targets[:, 1] > 0
    earlier = (times[:, None] < times[None]) & events[:, None]  # row before column
    wrong = (risk[:, None] < risk[None]) + 0.5 * (risk[:, None] == risk[None])
    pairs = earlier | earlier.T
    wrong = np.where(earlier, wrong, wrong.T)
    with np.errstate(invalid="ignore"):
        found: Numbers = (wrong * pairs).sum(1) / np.where(pairs.any(1), pairs.sum(1), np.nan)
    return found


_MORE: Mapping[str, Callable[[Numbers, Numbers], dict[str, float]]] = {
    "classification": _of_classes,
    "multilabel": _of_classes,
    "regression": _of_values,
}
_ERRORS: Mapping[str, Callable[[Numbers, Numbers], Any]] = {
    "classification": _error_of_class,
    "multilabel": _error_of_findings,
    "regression": _error_of_value,
    "survival": _error_of_survival,
}
