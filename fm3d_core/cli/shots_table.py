"""The figures of several draws: per draw, and their mean and deviation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fm3d_core.cli.evaluating import measured, plain

if TYPE_CHECKING:
    from rich.table import Table

    from fm3d_core.cli.evaluating import Evaluated

_MEASURES = ("dice", "hd95")


def figures_of(evaluated: Evaluated, structures: Sequence[str]) -> dict[str, Any]:
    """Means over the cases: Dice and HD95 of each structure, and of all; null where nothing could be measured."""
    found: dict[str, Any] = {}
    for measure in _MEASURES:
        each = {name: _mean(measured(evaluated.cases, 0, name, measure)) for name in structures}
        found |= {measure: each, f"mean_{measure}": _mean(each.values())}
    return found


def summary_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation over the draws of the mean Dice and HD95; no deviation of a single draw."""
    found = {}
    for name in (f"mean_{measure}" for measure in _MEASURES):
        values = [row[name] for row in rows if row[name] is not None]
        deviation = plain(float(np.std(values, ddof=1))) if len(values) > 1 else None
        found[name] = {"mean": _mean(values), "sd": deviation}
    return found


def table_of(rows: Sequence[Mapping[str, Any]], structures: Sequence[str], tested: int) -> Table:
    """One line a draw, and their mean with the deviation of the draws."""
    from rich.table import Table

    columns = ("draw", "version", *structures, "mean Dice", "HD95 mm")
    table = Table(*columns, title=f"Measured on {tested} case{'s' if tested > 1 else ''} that no draw has taken")
    for row in rows:
        dice = [_figure(row["dice"][name], 3) for name in structures]
        ends = (_figure(row["mean_dice"], 3), _figure(row["mean_hd95"], 2))
        table.add_row(str(row["draw"]), str(row["version"]), *dice, *ends)
    table.add_section()
    means = [_figure(_mean(row["dice"][name] for row in rows), 3) for name in structures]
    summary = summary_of(rows)
    ends = (_with_deviation(summary["mean_dice"], 3), _with_deviation(summary["mean_hd95"], 2))
    table.add_row("mean", "", *means, *ends)
    return table


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return plain(float(np.mean(known))) if known else None


def _with_deviation(figures: Mapping[str, float | None], decimals: int) -> str:
    deviation = figures["sd"]
    return _figure(figures["mean"], decimals) + (f" ± {deviation:.{decimals}f}" if deviation is not None else "")


def _figure(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
