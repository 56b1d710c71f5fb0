"""The picture of benchmarks/default_backbones.py: Dice of each test volume, with random and with pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.files import atomic_file

TITLES = {
    "hippocampus": "hippocampus\n(MR)",
    "btcv_ct": "13 abdominal\norgans (CT)",
    "chaos_mr_t2": "4 abdominal\norgans (MR)",
    "la_mr": "left atrium\n(MR)",
    "acdc_mr": "heart, 3 structures\n(cine MR)",
}
COLOURS = ("#8a8a8a", "#1f6fb4")  # random, pretrained


def draw(
    scores: Mapping[tuple[str, int], Mapping[str, np.ndarray]], weights: Sequence[str], about: str, path: Path
) -> None:
    """Write a PNG: a row of panels per number of labelled volumes, a panel per set.

    Args:
        scores: (set, k) -> weights -> Dice of each test volume.
        weights: the two that are compared.
        about: line below the picture.
    """
    from matplotlib.figure import Figure

    complete = [key for key, found in scores.items() if all(name in found for name in weights)]
    sets = list(dict.fromkeys(name for name, _ in complete))
    shots = sorted({count for _, count in complete})
    if not complete:
        raise SystemExit("no set has both weights in --out")
    figure = Figure(figsize=(2.1 * len(sets) + 0.8, 2.7 * len(shots) + 0.5), layout="constrained")
    axes = figure.subplots(len(shots), len(sets), sharey=True, squeeze=False)
    for row, count in zip(axes, shots, strict=True):
        row[0].set_ylabel(f"Dice, {count} labelled volume{'s' * (count > 1)}")
        for axis, name in zip(row, sets, strict=True):
            _panel(axis, [scores[name, count][each] for each in weights] if (name, count) in complete else [])
            axis.set_xticks((0, 1), ["random", weights[1]])
    for axis, name in zip(axes[0], sets, strict=True):
        axis.set_title(TITLES.get(name, name), fontsize=10)
    figure.supxlabel(f"{about}; a dot is a test volume, a bar the mean", fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _panel(axis: Any, pair: Sequence[np.ndarray]) -> None:
    """Two columns, the same volume joined by a line."""
    axis.set_xlim(-0.5, 1.5)
    axis.set_ylim(0, 1)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if not pair:
        return
    first, second = pair
    axis.plot((0, 1), (first, second), color="#c4c4c4", linewidth=0.8, zorder=1)
    for place, (values, colour) in enumerate(zip(pair, COLOURS, strict=True)):
        axis.scatter(np.full(len(values), place), values, s=12, color=colour, zorder=2)
        axis.hlines(values.mean(), place - 0.3, place + 0.3, color=colour, linewidth=3, zorder=3)
    change = second - first
    error = change.std(ddof=1) / len(change) ** 0.5
    axis.text(0.5, 0.03, f"{change.mean():+.3f} \u00b1 {error:.3f}", ha="center", fontsize=9)
