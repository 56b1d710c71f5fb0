"""What the commands show: a progress bar with the time left, and tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fm3d_core.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(console: Console) -> Iterator[ProgressCallback]:
    """A bar that follows the stages of a long call, with its loss and the time left."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None, figures="")

        def show(event: Progress) -> None:
            left = "" if event.eta is None else f"{event.eta:.0f} s left"
            loss = "" if event.loss is None else f"loss {event.loss:.3f}"
            whole = event.elapsed + event.eta if event.eta is not None else 0.0
            bar.update(
                task,
                description=event.stage,
                total=whole or None,
                completed=event.elapsed if whole else 0.0,
                figures="  ".join(part for part in (left, loss) if part),
            )

        yield show
