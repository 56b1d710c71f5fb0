"""The markdown table of the rows that benchmarks/few_shot.py measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

COLUMNS = (
    "set",
    "k",
    "budget",
    "method",
    "seeds",
    "Dice",
    "sd of volumes",
    "min",
    "HD95 mm",
    "missed",
    "core-s",
    "+ reading",
    "core-s a volume",
)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """One line per set, k, budget and method: the mean over its seeds, with the deviation of the seeds behind it."""
    groups: dict[tuple[str, int, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["shots"], float(row["budget"]), row["method"]), []).append(row)
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    order = {name: index for index, name in enumerate(dict.fromkeys(key[0] for key in groups))}
    for key in sorted(groups, key=lambda key: (order[key[0]], key[1], key[2], -_mean(groups[key], "dice"))):
        name, shots, budget, method = key
        cells = (name, str(shots), f"{budget:g}", method, *_figures(groups[key]))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _figures(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    dice = f"{_mean(rows, 'dice'):.3f}"
    if len(rows) > 1:
        dice += f" ± {np.std([row['dice'] for row in rows], ddof=1):.3f}"
    distances = [row["hd95"] for row in rows if row["hd95"] is not None]
    return (
        str(len(rows)),
        dice,
        f"{_mean(rows, 'sd'):.3f}",
        f"{min(row['min'] for row in rows):.3f}",
        f"{np.mean(distances):.1f}" if distances else "none",
        str(sum(row["missed"] for row in rows)),
        f"{_mean(rows, 'train_core_s'):.0f}",
        f"{_mean(rows, 'prepare_core_s'):.1f}",
        f"{_mean(rows, 'infer_core_s'):.2f}",
    )


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def paired_table_of(rows: Sequence[dict[str, Any]], ours: str = "fm3d", peer: str = "unet") -> str:
    """The README's: one line per set, k and budget that both have, over the seeds that both have.

    The difference is of each test volume's mean over these seeds, with its standard error over the volumes.
    """
    found: dict[tuple[str, int, float, str], dict[int, Any]] = {}
    for row in rows:
        key = (row["set"], row["shots"], float(row["budget"]), row["method"])
        found.setdefault(key, {})[row["seed"]] = np.array(row["per_volume"])
    lines = [f"| set (test volumes) | labelled volumes | seeds | core-seconds | {ours} | {peer} | difference |"]
    lines.append("|---|---|---|---|---|---|---|")
    order = {name: index for index, name in enumerate(dict.fromkeys(key[0] for key in found))}
    for name, shots, budget in sorted({key[:3] for key in found}, key=lambda key: (order[key[0]], *key[1:])):
        a, b = (found.get((name, shots, budget, method), {}) for method in (ours, peer))
        if not (seeds := sorted(set(a) & set(b))):
            continue
        first, second = (np.mean([which[seed] for seed in seeds], axis=0) for which in (a, b))
        difference = first - second
        error = difference.std(ddof=1) / len(difference) ** 0.5
        cells = (
            f"{name} ({len(first)})",
            shots,
            len(seeds),
            f"{budget:g}",
            f"{first.mean():.3f}",
            f"{second.mean():.3f}",
        )
        lines.append("| " + " | ".join(map(str, (*cells, f"{difference.mean():+.3f} ± {error:.3f}"))) + " |")
    return "\n".join(lines)
