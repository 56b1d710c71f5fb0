"""Plots of a report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fm3d_core.evaluation.calibration import ReliabilityBin
    from fm3d_core.evaluation.intervals import MeanInterval

Numbers = npt.NDArray[np.float64]
_SIZE = (4.4, 3.8)


def plot_cases(values: Mapping[str, Sequence[float]], means: Mapping[str, MeanInterval], name: str) -> str:
    """Every case as a point, one column per structure, with the mean and its interval.

    Args:
        values: structure -> one figure per case, NaN where there is none.
        means: of the same structures.
        name: of the figure.
    """
    figure, axis = _figure(max(_SIZE[0], 0.9 * len(values) + 1.5))
    generator = np.random.default_rng(0)
    for place, (structure, figures) in enumerate(values.items()):
        known = np.array([value for value in figures if not np.isnan(value)])
        axis.plot(place + generator.uniform(-0.15, 0.15, len(known)), known, "o", ms=4, alpha=0.5, color="tab:blue")
        mean = means[structure]
        if not np.isnan(mean.low):
            axis.plot([place + 0.3] * 2, [mean.low, mean.high], "-", color="black")
        axis.plot(place + 0.3, mean.mean, "D", ms=5, color="black")
    axis.set_xticks(range(len(values)), list(values), rotation=30, ha="right")
    axis.set_ylabel(name)
    axis.grid(axis="y", alpha=0.3)
    return _svg(figure)


def plot_confusion(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> str:
    """Row the truth, column what was said; the colour is the share of the row."""
    figure, axis = _figure(max(_SIZE[0], 0.7 * len(labels) + 2), max(_SIZE[1], 0.6 * len(labels) + 1.5))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel("said")
    axis.set_ylabel("truth")
    return _svg(figure)


def plot_roc(scores: Numbers, truth: npt.NDArray[np.bool_], labels: Sequence[str]) -> str:
    """One ROC curve per column that has positives and negatives.

    Args:
        scores: (n, columns).
        truth: (n, columns).
        labels: of the columns.
    """
    from fm3d_core.tasks.metrics import area_under_curve

    figure, axis = _figure()
    axis.plot([0, 1], [0, 1], "--", color="gray", lw=1)
    for column, label in enumerate(labels):
        area = area_under_curve(scores[:, column], truth[:, column])
        if np.isnan(area):
            continue
        order = np.argsort(-scores[:, column], kind="stable")
        positive, ranked = truth[order, column], scores[order, column]
        last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # equal scores are one step
        right = np.concatenate([[0], np.cumsum(positive)[last] / positive.sum()])
        wrong = np.concatenate([[0], np.cumsum(~positive)[last] / (~positive).sum()])
        axis.plot(wrong, right, label=f"{label} ({area:.2f})")
    axis.set_xlabel("1 - specificity")
    axis.set_ylabel("sensitivity")
    axis.legend(fontsize=8, title="AUC", title_fontsize=8)
    return _svg(figure)


def plot_reliability(bins: Sequence[ReliabilityBin]) -> str:
    """What was said against what was right; points are as large as what they stand for."""
    figure, axis = _figure()
    total = sum(each.count for each in bins)
    axis.plot([0, 1], [0, 1], "--", color="gray", lw=1)
    axis.plot([each.said for each in bins], [each.right for each in bins], "-", color="tab:blue", lw=1)
    sizes = [20 + 300 * each.count / total for each in bins]
    axis.scatter([each.said for each in bins], [each.right for each in bins], s=sizes, color="tab:blue", alpha=0.6)
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("probability that was said")
    axis.set_ylabel("share that was right")
    return _svg(figure)


def plot_values(said: Numbers, truth: Numbers, name: str) -> str:
    """What was said of each case against the truth."""
    figure, axis = _figure()
    ends = [float(min(said.min(), truth.min())), float(max(said.max(), truth.max()))]
    axis.plot(ends, ends, "--", color="gray", lw=1)
    axis.plot(truth, said, "o", ms=4, alpha=0.6, color="tab:blue")
    axis.set_xlabel(f"{name}, truth")
    axis.set_ylabel(f"{name}, said")
    return _svg(figure)


def plot_survival(risk: Numbers, times: Numbers, events: npt.NDArray[np.bool_], unit: str) -> str:
    """Kaplan and Meier's curves of the half with the higher and the half with the lower risk."""
    figure, axis = _figure()
    high = risk > np.median(risk)
    for chosen, label, colour in ((high, "higher risk", "tab:red"), (~high, "lower risk", "tab:blue")):
        at, surviving = kaplan_meier(times[chosen], events[chosen])
        axis.step(at, surviving, where="post", label=f"{label} ({int(chosen.sum())})", color=colour)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel(unit)
    axis.set_ylabel("share without the event")
    axis.legend(fontsize=8)
    return _svg(figure)


def kaplan_meier(times: Numbers, events: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Times from 0 on, and the share that had no event by then (Kaplan and Meier 1958)."""
    at = np.unique(times[events])
    shares = [1 - (events & (times == time)).sum() / (times >= time).sum() for time in at]
    last = float(times.max()) if len(times) else 0.0
    surviving = np.concatenate([[1.0], np.cumprod(shares)])
    return np.concatenate([[0.0], at, [last]]), np.append(surviving, surviving[-1])


def _figure(width: float = _SIZE[0], height: float = _SIZE[1]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # Figure without pyplot: no global state, no display needed.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    import matplotlib

    file = io.StringIO()
    # text stays text; ids from a fixed salt and no date: the same figures give the same file
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fm3d"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
