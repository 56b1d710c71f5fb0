"""A polite end: SIGTERM, SIGINT and SLURM's SIGUSR1 or SIGUSR2 let the step finish and save, then the run stops."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar

from fm3d_core.errors import FM3DError

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class RunStopped(FM3DError):
    """A run that was asked to stop and has saved; exit code 75 is sysexits.h's "try again later".

    Attributes:
        signal: name of the signal that this process got, if it was one.
    """

    exit_code: ClassVar[int] = 75
    http_status: ClassVar[int] = 409

    def __init__(self, step: int, steps: int, folder: Path, signal: str | None = None) -> None:
        self.signal = signal
        super().__init__(
            f"stopped after step {step} of {steps}, which is saved",
            path=folder,
            remedy="Resume with the same command",
        )


class StopSignals:
    """While it is entered, the signals only set a flag; a second SIGINT stops at once. In other threads: nothing."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
