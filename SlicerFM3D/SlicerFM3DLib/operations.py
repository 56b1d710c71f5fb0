"""What the user has started and what became of it: at most one job and one message for each button."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from .errors import UserError
from .signal import Signal
from .translation import tr as _


class Operation(Enum):
    """What the user can start; each has one button."""

    CONNECT = "connect"
    LOCAL_SERVER = "run a server here"
    NEXT = "next"
    OPEN = "open"
    UPLOAD = "upload"
    SEGMENT = "segment"
    PROMPTS = "segment by clicks"
    SUBMIT = "submit"
    TRAIN = "train"
    VERSIONS = "activate or roll back"
    COMPARE = "compare"
    SIDE_BY_SIDE = "side by side"
    INSIGHT = "insight"


# These go on while the user does something else.
BESIDE = frozenset({Operation.LOCAL_SERVER, Operation.TRAIN, Operation.COMPARE})


@dataclass(frozen=True)
class Message:
    """A line for the user."""

    text: str
    isError: bool = False


class RunningJob(Protocol):
    """What the session needs of :class:`~.background.Job`."""

    progressed: Signal
    finished: Signal
    failed: Signal
    cancelled: Signal

    def start(self) -> None: ...
    def cancel(self) -> None: ...
    def abandon(self) -> None: ...


class Operations:
    """Runs jobs and keeps a message for each; ``changed`` tells that anything is different.

    :param newJob: makes a job of a function ``work(cancellation, report)``.
    """

    def __init__(self, newJob: Callable[[Any], RunningJob]) -> None:
        self.changed = Signal()
        self.messages: dict[Operation, Message] = {}
        self._newJob = newJob
        self._jobs: dict[Operation, RunningJob] = {}
        self._folders: dict[Operation, Path | None] = {}  # temporary, of what runs
        self._cancelling: set[Operation] = set()

    @property
    def waitedFor(self) -> Operation | None:
        """What the user is waiting for; what goes on beside is not waited for."""
        return next((operation for operation in self._jobs if operation not in BESIDE), None)

    def isRunning(self, operation: Operation) -> bool:
        """Whether this operation is going on."""
        return operation in self._jobs

    def isCancelling(self, operation: Operation) -> bool:
        """Whether the user has cancelled an operation that has not ended yet."""
        return operation in self._cancelling

    def say(self, operation: Operation, text: str, isError: bool = False) -> None:
        """Show a line where the user has pressed."""
        self.messages.pop(operation, None)  # the newest message is the last
        self.messages[operation] = Message(text, isError)
        self.changed.emit()

    def cancel(self, operation: Operation) -> None:
        """End an operation. Its message says so when it has ended."""
        if operation in self._jobs:
            self._cancelling.add(operation)
            self._jobs[operation].cancel()
            self.say(operation, _("Cancelling..."))

    def fail(self, operation: Operation, error: Exception) -> None:
        """Show an error where the user has pressed; its cause goes to the log if it is not the user's."""
        if isinstance(error, UserError):
            self.say(operation, str(error), isError=True)
            return
        logging.error("FM3D: %s failed", operation.value, exc_info=error)
        message = _("Unexpected error ({error}). The application log has the details.")
        self.say(operation, message.format(error=f"{type(error).__name__}: {error}"), isError=True)

    @contextmanager
    def toldAt(self, operation: Operation) -> Iterator[None]:
        """Show a :class:`UserError` of this block where the user has pressed."""
        try:
            yield
        except UserError as error:
            self.fail(operation, error)

    def abandonAll(self, but: Operation | None = None) -> None:
        """Hear nothing more of what runs, and forget the messages; ``but`` one operation, if one is named."""
        for operation, job in list(self._jobs.items()):
            if operation is not but:
                job.abandon()
                _remove(self._forget(operation))
        self.messages = {operation: text for operation, text in self.messages.items() if operation is but}
        self.changed.emit()

    def start(
        self,
        operation: Operation,
        text: str,
        work: Any,
        done: Callable[[Any], None],
        folder: Path | None = None,
        progressed: Callable[[Any], None] | None = None,
    ) -> None:
        """Run ``work`` in a job. ``folder`` is temporary and removed at the end, however it ends."""

        def finished(result: Any) -> None:
            self._forget(operation)
            try:
                done(result)
            except Exception as error:  # noqa: BLE001 - shown to the user, logged unless it is the user's
                self.fail(operation, error)
            finally:
                _remove(folder)

        def failed(error: Exception) -> None:
            _remove(self._forget(operation))
            self.fail(operation, error)

        def cancelled() -> None:
            _remove(self._forget(operation))
            self.say(operation, _("Cancelled."))

        job = self._newJob(work)
        job.finished.connect(finished)
        job.failed.connect(failed)
        job.cancelled.connect(cancelled)
        if progressed:
            job.progressed.connect(progressed)
        self._jobs[operation], self._folders[operation] = job, folder
        self.say(operation, text)
        job.start()

    def _forget(self, operation: Operation) -> Path | None:
        """The operation runs no more; its folder is returned."""
        self._cancelling.discard(operation)
        del self._jobs[operation]
        return self._folders.pop(operation)


def _remove(folder: Path | None) -> None:
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
