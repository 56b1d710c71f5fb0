"""Answers of one or several trainings against those of others, on the same cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.cli.evaluating import plain, plain_interval

if TYPE_CHECKING:
    from rich.table import Table

    from fm3d_core.cli.evaluate_answers import Judged
    from fm3d_core.evaluation.report.page import Section


def comparison_of(judged: Sequence[Judged], others: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Figure -> what the files say of it; empty where there is nothing to compare.

    Of one file each: the difference with its paired bootstrap interval, and of the cases' errors the paired Wilcoxon
    test. Of several: mean and deviation of the runs, and Welch's t test.
    """
    from fm3d_core.evaluation.intervals import compare_paired, compare_runs, figure_with_interval
    from fm3d_core.evaluation.volume_figures import errors_of_cases, figures_of

    if len(judged) == 1 and not others:
        return {}
    task, targets = judged[0].predictions.task, judged[0].targets
    found: dict[str, dict[str, Any]] = {}
    kept: dict[bytes, dict[str, float]] = {}

    def difference(name: str, rows: npt.NDArray[np.int64]) -> float:
        key = rows.tobytes()  # every figure is of the same draws
        if key not in kept:
            after, before = (
                figures_of(task, one.predictions.activated[rows], targets[rows]) for one in (*judged, *others)
            )
            kept[key] = {each: after[each] - before[each] for each in after}
        return kept[key][name]

    first, second = (
        [figures_of(task, one.predictions.activated, targets) for one in group] for group in (judged, others)
    )
    for name in first[0]:
        runs = compare_runs([one[name] for one in first], [one[name] for one in second])
        found[name] = {"mean": [plain(each) for each in runs.means], "sd": [plain(each) for each in runs.deviations]}
        if others and max(runs.counts) > 1:
            found[name]["welch_p"] = plain(runs.p)
        if len(judged) == len(others) == 1:
            found[name]["difference"] = plain_interval(figure_with_interval(partial(difference, name), len(targets)))
    if len(judged) == len(others) == 1:
        errors = [errors_of_cases(task, each[0].predictions.activated, targets) for each in (others, judged)]
        paired = compare_paired(errors[0].tolist(), errors[1].tolist())
        found["error of a case"] = {
            "mean": [plain(float(np.nanmean(each))) for each in reversed(errors)],
            "difference": plain_interval(paired.difference),
            "wilcoxon_p": plain(paired.p),
        }
    return found


_HEAD = ["figure", "first", "against", "difference", "p"]


def _rows(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    from fm3d_core.evaluation.volume_figures import NAMES

    return [
        [
            NAMES.get(name, name),
            *(_mean(row, place) for place in (0, 1)),
            _ends(row.get("difference")),
            next((f"{row[key]:.3g} ({key[:-2]})" for key in ("welch_p", "wilcoxon_p") if row.get(key) is not None), ""),
        ]
        for name, row in rows.items()
    ]


def _mean(row: Mapping[str, Any], place: int) -> str:
    mean = row["mean"][place]
    deviation = row.get("sd", [None, None])[place]
    return "" if mean is None else f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _ends(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["mean"] is None or math.isnan(difference["mean"]):
        return ""
    if difference["low"] is None:
        return f"{difference['mean']:+.3f}"
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _title(judged: int, others: int) -> str:
    if not others:
        return f"mean and standard deviation of {judged} runs"
    return f"{judged} run{'s' * (judged > 1)} against {others}"


def comparison_table(rows: Mapping[str, Mapping[str, Any]], judged: int, others: int) -> Table:
    """For the console; ``judged`` and ``others`` say how many files there were of each."""
    from rich.table import Table

    table = Table(*_HEAD, title=_title(judged, others))
    for row in _rows(rows):
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def comparison_section(rows: Mapping[str, Mapping[str, Any]], judged: int, others: int) -> Section:
    """The same for the report."""
    from fm3d_core.evaluation.report.page import Section, TablePart

    return Section("Comparison", [TablePart(_HEAD, _rows(rows), _title(judged, others))])
