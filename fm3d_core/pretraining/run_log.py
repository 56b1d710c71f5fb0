"""What a run leaves to read: metrics.jsonl, TensorBoard files, the list of unreadable volumes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm3d_core.files import atomic_file, storage_error

logger = logging.getLogger(__name__)
METRICS_FILE, UNREADABLE_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "unreadable.txt", "tensorboard"


class RunLog:
    """The log of one run; only the first process has one.

    Lines behind the step that is resumed are cut off, so that the curve of a killed run is that of an unbroken one.

    Args:
        folder: of the run.
        step: steps that are done; 0 for a new run.
        tensorboard: write event files too, where TensorBoard is installed.
    """

    def __init__(self, folder: Path, step: int = 0, *, tensorboard: bool = True) -> None:
        self.path = folder / METRICS_FILE
        folder.mkdir(parents=True, exist_ok=True)
        cut_after(self.path, step)
        self._writer: Any = _summary_writer(folder / TENSORBOARD_FOLDER, step) if tensorboard else None

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one line; ``record`` has at least ``step``.

        Raises:
            StorageError: disk full, no permission.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise storage_error(self.path, error) from error
        if self._writer is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, record["step"])

    def sync(self) -> None:
        """Bring everything to the disk, as before a checkpoint."""
        if self.path.is_file():
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """The end of the run, or of this part of it."""
        if self._writer is not None:
            self._writer.close()


class Window:
    """Figures of the steps since the last line, for their means.

    Args:
        sums, steps: to go on with, of a resumed run.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, steps: int = 0) -> None:
        self.sums, self.steps = dict(sums or {}), steps

    def add(self, figures: Mapping[str, float]) -> None:
        """The figures of one step."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Over the steps that were added; begins anew."""
        found = {name: value / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a killed process left half-written is dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def cut_after(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl behind ``step``."""
    if not path.is_file():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def write_unreadable(folder: Path, lines: Sequence[str]) -> None:
    """The volumes that could not be read, each with its reason."""
    with atomic_file(folder / UNREADABLE_FILE) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed; metrics.jsonl has everything")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
