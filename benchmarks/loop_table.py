"""The figures of benchmarks/loop.py as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """All figures as a table, a line each."""
    table = Table("set", "what", "figures", title="The clinician's loop", caption=f"{psutil.cpu_count()} processors")
    for row in rows:
        for what, figures in LINES[row["part"]](row):
            table.add_row(row["set"], what, figures)
    console.print(table)


def train_lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the part train."""
    for number, training in enumerate(row["trainings"], start=1):
        first = training["seconds_to_first_better"]
        yield f"training {number}: first better version", "none" if first is None else f"after {first:.0f} s"
        dice = ", ".join(
            f"{each['stage']} {each['dice']:.3f} ({each['seconds']:.0f} s)" for each in training["versions"]
        )
        yield f"training {number}: Dice on {row['tests']} volumes", f"before {training['before']:.3f}; {dice}"


def click_lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the part clicks."""
    for name in ("first_click", "further_clicks"):
        yield f"{name.replace('_', ' ')} to mask, s", in_words(row[name])
    yield "Dice after each click", ", ".join(f"{each:.3f}" for each in row["dice_after_clicks"])


def info_lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the part info."""
    for name in ("idle", "while_segmenting"):
        yield f"/info/ {name.replace('_', ' ')}, s", in_words(row[name])


def memory_lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the part memory."""
    growth = row["growth_mb_per_100_requests"]
    yield (
        f"memory over {row['requests']} requests, MB",
        f"at rest {row['at_rest_mb']}, highest {row['highest_mb']}, at the end {row['at_the_end_mb']}, "
        f"{growth:+.1f} a hundred requests",
    )


def in_words(figures: dict[str, float]) -> str:
    """A :func:`spread`."""
    return f"median {figures['median']:.2f}, p95 {figures['p95']:.2f}, largest {figures['largest']:.2f}"


LINES = {"train": train_lines, "clicks": click_lines, "info": info_lines, "memory": memory_lines}
