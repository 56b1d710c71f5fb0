"""Work that must not freeze the window: a daemon thread, and a timer that brings its news back to the GUI thread."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import qt

from .cancellation import Cancellation
from .errors import Cancelled
from .signal import Signal

# Slicer's GUI thread holds Python's global lock while its event loop runs, so that a thread gets on with its work
# only inside this timer's callback: 5 ms of waiting in every 20 ms give it 215 turns a second, a callback that
# returns at once 10 (measured with PythonQt; an upload of 20 MB takes 0.07 s instead of 1.5 s).
PUMP_INTERVAL_MS = 20
PUMP_WAIT_SECONDS = 0.005

Report = Callable[[Any], None]
Work = Callable[[Cancellation, Report], Any]


class Job:
    """One piece of work in a thread. Its signals are emitted on the GUI thread, each at most once but ``progressed``.

    :param work: called in the thread as ``work(cancellation, report)``; it must not touch Qt or MRML. It respects
        the cancellation and calls ``report(value)`` as often as it likes.

    ``finished(result)``, ``failed(exception)`` and ``cancelled()`` exclude each other.
    """

    def __init__(self, work: Work) -> None:
        self.progressed, self.finished, self.failed, self.cancelled = Signal(), Signal(), Signal(), Signal()
        self.cancellation = Cancellation()
        self._work = work
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done = threading.Event()
        self._outcome: tuple[Signal, tuple[Any, ...]] = (self.cancelled, ())
        self._thread = threading.Thread(target=self._run, name="FM3D job", daemon=True)
        self._timer = qt.QTimer()
        self._timer.setInterval(PUMP_INTERVAL_MS)
        self._timer.timeout.connect(self._pump)

    def start(self) -> None:
        """Begin; returns at once."""
        self._timer.start()
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to end; ``cancelled`` follows when it has."""
        self.cancellation.request()

    def abandon(self) -> None:
        """Ask the work to end and hear nothing of it any more: for a window that closes."""
        self._timer.stop()
        for signal in (self.progressed, self.finished, self.failed, self.cancelled):
            signal.disconnectAll()
        self.cancel()

    @property
    def isRunning(self) -> bool:
        """Whether an outcome is still to come."""
        return self._timer.isActive()

    def _run(self) -> None:
        try:
            result = self._work(self.cancellation, self._news.put)
            self._outcome = (self.finished, (result,))
        except Cancelled:
            pass
        except Exception as error:  # noqa: BLE001 - it is handed to the GUI thread, where it is shown
            self._outcome = (self.failed, (error,))
        finally:
            self._done.set()

    def _pump(self) -> None:
        done = self._done.wait(PUMP_WAIT_SECONDS)
        while not self._news.empty():
            self.progressed.emit(self._news.get())
        if done and self._timer.isActive():
            self._timer.stop()
            signal, values = self._outcome
            logging.debug("FM3D job ended: %s", values)
            signal.emit(*values)
