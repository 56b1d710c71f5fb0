"""The sections of a report about answers for whole volumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.evaluation.calibration import reliability
from fm3d_core.evaluation.intervals import MeanInterval
from fm3d_core.evaluation.report.page import PicturePart, Section, TablePart
from fm3d_core.evaluation.report.plots import (
    plot_confusion,
    plot_reliability,
    plot_roc,
    plot_survival,
    plot_values,
)
from fm3d_core.evaluation.report.segmentation import shown
from fm3d_core.evaluation.volume_figures import (
    NAMES,
    confusion_matrix,
    errors_of_cases,
    figures_per_class,
    said_and_true,
)

if TYPE_CHECKING:
    from fm3d_core.tasks import WholeVolumeTask

Numbers = npt.NDArray[np.float64]


def whole_volume_sections(
    task: WholeVolumeTask,
    names: Sequence[str],
    activated: Numbers,
    targets: Numbers,
    figures: Mapping[str, MeanInterval],
    pictures: Mapping[str, bytes],
) -> list[Section]:
    """Figures with intervals, plots, the worst cases and what was said of every case.

    Args:
        task: what was asked.
        names: of the n cases.
        activated: (n, classes).
        targets: (n, T).
        figures: by name, see :data:`fm3d_core.evaluation.volume_figures.NAMES`.
        pictures: case -> PNG, of the worst cases.
    """
    table = TablePart(
        ["figure", "value"],
        [[NAMES.get(name, name), shown(interval, 3)] for name, interval in figures.items()],
        f"{len(names)} cases, with 95 % bootstrap intervals over the cases",
    )
    order = worst_first(task, activated, targets)
    drawn = [index for index in order if names[index] in pictures]
    worst = [
        PicturePart(
            pictures[names[index]], f"{names[index]}: {_said(task, activated[index])}; {_true(task, targets[index])}"
        )
        for index in drawn
    ]
    return [
        Section("Figures", [table, *_per_class(task, activated, targets)]),
        Section("Plots", [PicturePart(plot, caption) for caption, plot in _plots(task, activated, targets)]),
        Section("The worst cases", worst),
        Section("All cases, the worst first", [_all(task, names, activated, targets, order)]),
    ]


def worst_first(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[int]:
    """Places of the cases by how wrong their answers are; those that cannot be judged come last."""
    errors = errors_of_cases(task, activated, targets)
    return sorted(range(len(errors)), key=lambda index: (math.isnan(errors[index]), -errors[index]))


def _per_class(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[TablePart]:
    by_class = figures_per_class(task, activated, targets)
    if not by_class:
        return []
    heads = ["auc", "ap", "f1", "sensitivity", "specificity"]
    rows = [
        [
            label,
            f"{figures['count']:.0f}",
            *("-" if math.isnan(figures[head]) else f"{figures[head]:.3f}" for head in heads),
        ]
        for label, figures in by_class.items()
    ]
    return [TablePart(["class", "cases", *(NAMES[head] for head in heads)], rows)]


def _plots(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[tuple[str, str]]:
    return _PLOTS[task.kind](task, activated, targets)


def _of_classes(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[tuple[str, str]]:
    truth = targets[:, 0].astype(int)
    columns = [1] if task.classes == 2 else list(range(task.classes))
    return [
        ("confusion matrix", plot_confusion(confusion_matrix(activated.argmax(1), truth, task.classes), task.labels)),
        (
            "one class against the others",
            plot_roc(activated[:, columns], truth[:, None] == columns, [task.labels[column] for column in columns]),
        ),
        ("reliability", plot_reliability(reliability(*said_and_true(activated, targets)))),
    ]


def _of_findings(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[tuple[str, str]]:
    matrices = [
        (f"confusion matrix, {label}", plot_confusion(_two_by_two(activated, targets, column), ("absent", "present")))
        for column, label in enumerate(task.labels)
    ]
    return [
        ("each finding", plot_roc(activated, targets > 0, task.labels)),
        ("reliability", plot_reliability(reliability(*said_and_true(activated, targets)))),
        *matrices,
    ]


def _two_by_two(activated: Numbers, targets: Numbers, column: int) -> npt.NDArray[np.int64]:
    from fm3d_core.tasks.multilabel import THRESHOLD

    said, truth = activated[:, column] > THRESHOLD, targets[:, column] > 0
    return confusion_matrix(said.astype(np.int64), truth.astype(np.int64), 2)


def _of_values(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[tuple[str, str]]:
    return [("each case", plot_values(activated[:, 0], targets[:, 0], task.labels[0]))]


def _of_survival(task: WholeVolumeTask, activated: Numbers, targets: Numbers) -> list[tuple[str, str]]:
    unit = str(getattr(task, "time_unit", "time"))
    curves = plot_survival(-activated.sum(1), targets[:, 0], targets[:, 1] > 0, unit)
    return [("Kaplan-Meier curves of the halves with higher and lower risk", curves)]


_PLOTS: Mapping[str, Callable[[Any, Numbers, Numbers], list[tuple[str, str]]]] = {
    "classification": _of_classes,
    "multilabel": _of_findings,
    "regression": _of_values,
    "survival": _of_survival,
}


def _all(
    task: WholeVolumeTask, names: Sequence[str], activated: Numbers, targets: Numbers, order: Sequence[int]
) -> TablePart:
    errors = errors_of_cases(task, activated, targets)
    rows = [
        [names[index], _true(task, targets[index]), _said(task, activated[index]), f"{errors[index]:.3f}"]
        for index in order
    ]
    return TablePart(["case", "truth", "said", "error"], rows)


def _said(task: WholeVolumeTask, row: Numbers) -> str:
    """An answer in a few words."""
    answer = task.describe(row.tolist())
    if task.kind == "classification":
        return f"said {answer['class']} with {row.max():.0%}"
    if task.kind == "multilabel":
        return f"said {', '.join(answer['labels']) or 'nothing'}"
    if task.kind == "regression":
        return f"said {answer['value']:.4g} {answer['unit']}".rstrip()
    return f"said risk {answer['risk']:.3f}"


def _true(task: WholeVolumeTask, target: Numbers) -> str:
    """The truth in a few words."""
    if task.kind == "classification":
        return f"is {task.labels[int(target[0])]}"
    if task.kind == "multilabel":
        return f"has {', '.join(label for label, there in zip(task.labels, target, strict=True) if there) or 'nothing'}"
    if task.kind == "regression":
        return f"is {target[0]:.4g}"
    return f"{'event at' if target[1] else 'last seen at'} {target[0]:.4g}"
