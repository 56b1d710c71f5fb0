"""Where a training stands, told from its process to the server by a small file that is never half-written."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import StorageError
from fm3d_core.files import atomic_file
from fm3d_core.progress import Progress

if TYPE_CHECKING:
    from fm3d_core.teaching import TaughtVersion

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_WRITES = 0.5
LONGEST_CURVE = 200  # points; then every second one is left out


class ProgressFile:
    """Writes the progress of one run; the object itself is the ``progress`` callback of ``teach``.

    Args:
        path: the file; the previous run's is replaced.
        run_id: names the run; None invents one.
    """

    def __init__(self, path: str | Path, run_id: str | None = None) -> None:
        self._path, self._began = Path(path), time.monotonic()
        self._run: dict[str, Any] = {"run_id": run_id or uuid.uuid4().hex, "start_ts": int(time.time())}
        self._last = Progress("starting", 0, 0)
        self._written = -math.inf
        self._curve: list[tuple[float, float]] = []
        self._versions: dict[int, dict[str, Any]] = {}

    def __call__(self, event: Progress) -> None:
        """Write ``event``, at most twice a second within a stage."""
        new_stage, self._last = event.stage != self._last.stage, event
        if new_stage or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._draw(event)
            self._write("running", event)

    def waiting(self) -> None:
        """The run is accepted; its process starts."""
        self._write("running", self._last)

    def left_out(self, reasons: Sequence[str]) -> None:
        """Which cases could not be used and why."""
        self._run["left_out"] = list(reasons)

    def version_there(self, taught: TaughtVersion) -> None:
        """A version has landed, or was measured, and can be used while training goes on."""
        expected = taught.expected_dice
        if taught.active:
            self._versions = {number: {**other, "active": False} for number, other in self._versions.items()}
        self._versions[taught.version] = {
            "version": taught.version,
            "stage": taught.stage,
            "seconds": round(taught.seconds, 1),
            "expected_dice": expected
            and {"mean": expected.mean, "low": expected.low, "high": expected.high, "how": expected.how},
            "active": taught.active,
            "why": taught.why,
        }
        reasons = self._run.setdefault("left_out", [])
        reasons += [reason for reason in taught.stored.card.left_out if reason not in reasons]
        self._write("running", self._last)

    def done(self) -> None:
        """The run ended well."""
        self._write("done", self._last, stage="done", eta=0.0, **self._newest())

    def cancelled(self) -> None:
        """The run was cancelled; the versions that had landed stay."""
        message = f"Cancelled. {self._kept()}"
        self._write("cancelled", self._last, stage="cancelled", eta=None, message=message, **self._newest())

    def interrupted(self, why: str) -> None:
        """The run was ended from outside, in order."""
        message = f"Interrupted: {why} {self._kept()} The same training can be started again."
        self._write("interrupted", self._last, stage="interrupted", eta=None, message=message, **self._newest())

    def failed(self, reason: str) -> None:
        """The run ended by a mistake or a fault."""
        self._write("failed", self._last, stage="failed", eta=None, error=reason, message=reason)

    def _newest(self) -> dict[str, Any]:
        return {"version": max(self._versions)} if self._versions else {}

    def _kept(self) -> str:
        if not self._versions:
            return "Nothing had been learned yet."
        newest = self._versions[max(self._versions)]
        why = "" if newest["active"] else f" It is not the active one: {newest['why']}."
        return f"Version {newest['version']} had landed and was kept.{why}"

    def _draw(self, event: Progress) -> None:
        if event.loss is None or not math.isfinite(event.loss):
            return
        self._curve.append((round(time.monotonic() - self._began, 1), round(event.loss, 5)))
        if len(self._curve) > LONGEST_CURVE:
            del self._curve[1:-1:2]

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
            "dice": event.metrics.get("dice"),
            "metrics": dict(event.metrics),
            "curve": self._curve,
            "versions": list(self._versions.values()),
            **more,
        }
        self._written = time.monotonic()
        try:
            with atomic_file(self._path) as temporary:
                temporary.write_text(json.dumps(_finite(content)), encoding="utf-8")
        except StorageError as error:  # a training does not end because nobody can watch it
            logger.error("Where the training stands cannot be told: %s", error)


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
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
