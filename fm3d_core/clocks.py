"""Two ways to count the seconds of a budget: as the wall clock runs, or as the processor works."""

from __future__ import annotations

import time
from typing import Literal, get_args

ClockName = Literal["wall", "cpu"]
CLOCKS: tuple[ClockName, ...] = get_args(ClockName)
_READ = {"wall": time.monotonic, "cpu": time.process_time}


class Stopwatch:
    """Seconds since it was made.

    Args:
        clock: wall, or cpu for the core-seconds of this process, which other programs on the same computer do not
            change. Idle OpenMP threads that spin count too: compare core-seconds with one thread.
    """

    def __init__(self, clock: ClockName = "wall") -> None:
        self._read = _READ[clock]
        self._start = self._read()

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._read() - self._start
