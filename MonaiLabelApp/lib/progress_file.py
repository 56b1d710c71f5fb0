"""Where a training stands, told from its process to the server by a small file that is never half-written."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fm3d_core.errors import StorageError
from fm3d_core.files import atomic_file
from fm3d_core.progress import Progress

SECONDS_BETWEEN_WRITES = 0.5


class ProgressFile:
    """Writes the progress of one run; the object itself is the ``progress`` callback of ``finetune``.

    Args:
        path: the file; the previous run's is replaced.
        run_id: names the run; None invents one.
    """

    def __init__(self, path: str | Path, run_id: str | None = None) -> None:
        self._path = Path(path)
        self._run: dict[str, Any] = {"run_id": run_id or uuid.uuid4().hex, "start_ts": int(time.time())}
        self._last = Progress("starting", 0, 0)
        self._written = -math.inf

    def __call__(self, event: Progress) -> None:
        """Write ``event``, at most twice a second within a stage."""
        new_stage, self._last = event.stage != self._last.stage, event
        if new_stage or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write("running", event)

    def waiting(self) -> None:
        """The run is accepted; its process starts."""
        self._write("running", self._last)

    def version_there(self, version: int) -> None:
        """Adapter ``version``, of an early stage, can be used while training goes on."""
        self._run["early_version"] = version
        self._write("running", self._last)

    def done(self, version: int, left_out: Sequence[str]) -> None:
        """The run ended well with adapter ``version``; ``left_out`` says which cases could not be used and why."""
        self._write("done", self._last, stage="done", eta=0.0, version=version, left_out=list(left_out))

    def failed(self, reason: str) -> None:
        """The run ended without an adapter."""
        self._write("failed", self._last, stage="failed", eta=None, error=reason)

    def _write(self, state: str, event: Progress, **more: Any) -> None:
        total = event.total or _expected_steps(event)
        content = {
            **self._run,
            "state": state,
            "stage": event.stage,
            "step": event.step,
            "total": total,
            "epoch": event.step,  # the name under which MONAI Label's own clients draw the bar
            "total_epochs": total,
            "elapsed": event.elapsed,
            "eta": event.eta,
            "loss": event.loss,
            "metrics": dict(event.metrics),
            **more,
        }
        with atomic_file(self._path) as temporary:
            temporary.write_text(json.dumps(_finite(content)), encoding="utf-8")
        self._written = time.monotonic()


def read_progress(path: str | Path) -> dict[str, Any]:
    """The last written progress, {} if there is none.

    Raises:
        StorageError: the file is there but cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError("the progress cannot be read", path=path, remedy="Delete this file") from error
    return dict(content)


def _expected_steps(event: Progress) -> int:
    """How many steps a stage with a time budget will take at its present speed, so that a client's bar moves."""
    if event.eta is None or not 0 < event.elapsed + event.eta < math.inf or event.elapsed <= 0:
        return 0
    return max(event.step, round(event.step * (event.elapsed + event.eta) / event.elapsed))


def _finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them, and the server would answer 500."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
