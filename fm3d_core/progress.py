"""How a long call tells where it stands: one small event, one callable, one question whether to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One moment of a long call.

    Attributes:
        stage: what is being done, in words a user reads ("preparing volumes", "training").
        step, total: steps done and steps planned in this stage; total 0 when unknown.
        elapsed: seconds since the stage began.
        eta: seconds left in this stage, None while unknown.
        loss: the training loss (smoothed), None outside training.
        metrics: named figures, such as ``{"dice": 0.81}``.
    """

    stage: str
    step: int
    total: int
    elapsed: float = 0.0
    eta: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def ignore_progress(event: Progress) -> None:
    """The callback of a caller who does not watch."""


def never_stop() -> bool:
    """The answer of a caller who never cancels."""
    return False


class StageClock:
    """Builds the events of one stage with its time left.

    Args:
        stage: the stage's name.
        total: steps planned; 0 when unknown.
        callback: receives each event.
    """

    def __init__(self, stage: str, total: int, callback: ProgressCallback) -> None:
        self.stage, self.total, self._callback = stage, total, callback
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._start

    def report(
        self,
        step: int,
        *,
        loss: float | None = None,
        metrics: Mapping[str, float] | None = None,
        fraction: float | None = None,
    ) -> None:
        """Send one event; the time left follows from ``fraction`` done (default ``step / total``)."""
        elapsed = self.elapsed
        done = fraction if fraction is not None else (step / self.total if self.total else 0.0)
        eta = elapsed * (1 - done) / done if done > 0 else None
        self._callback(Progress(self.stage, step, self.total, elapsed, eta, loss, dict(metrics or {})))
