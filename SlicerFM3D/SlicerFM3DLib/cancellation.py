"""A wish to stop that crosses threads, and wakes up whoever waits for something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import Cancelled
from .translation import tr as _


class Cancellation:
    """Set once by the thread of the window, respected by the thread that works."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop; returns at once."""
        self._event.set()
        with self._lock:
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until somebody asks to stop; True if so."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Go on, or raise :class:`Cancelled`."""
        if self.requested:
            raise Cancelled(_("Cancelled."))

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within this block a request also calls ``interrupt`` (on the requesting thread), to end a blocking call."""
        with self._lock:
            self._interrupts.append(interrupt)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)
