"""The queue of trainings: one runs, others wait, and neither a crash nor a restart loses or doubles one."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fm3d_core.errors import FM3DError, StorageError
from MonaiLabelApp.lib.errors import Busy, Conflict, NotServed
from MonaiLabelApp.lib.training.record import ENDED, Training, TrainingRequest, Work

logger = logging.getLogger(__name__)
MOST_WAITING = 20
KEPT = 30  # ended trainings whose folder stays
SECONDS_BETWEEN_LOOKS = 0.25
PATIENCE = 60.0  # seconds that a cancelled training has for its last step and for saving
KILLED = (
    "The training was ended from outside: killed, perhaps because memory ran out, or the computer went down. What it"
    " had kept is there, and the same training can be started again. Method linear_probe and a smaller backbone need"
    " less memory."
)
FULL = 1 << 16  # bytes left: then its process could not say why it ended
DISK_FULL = "The disk of the server's workspace is full. Free some space and start the training again."
SILENT = "The training ended without saying why. The last line of its log: {line}"


class TrainingQueue:
    """Runs trainings one after the other, each in a process of its own.

    A process goes on when the server is killed; the next server finds it by its number and watches it further.

    Args:
        folder: of the trainings.
        prepare: gives a training its work, just before it starts.
        on_end: told of each training that has ended.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Training], Work],
        on_end: Callable[[Training], None] = lambda training: None,
    ) -> None:
        self._folder, self._prepare, self._on_end = folder, prepare, on_end
        self._lock = threading.RLock()
        self._trainings: dict[str, Training] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_asked: float | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Take up what an earlier server left, and start watching."""
        with self._lock:
            folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
            found = [training for training in map(Training.read, folders) if training is not None]
            self._trainings = {training.request.id: training for training in found}
        threading.Thread(target=self._watch, name="trainings", daemon=True).start()

    def close(self) -> None:
        """Stop watching; a running training goes on."""
        self._closed.set()

    def add(self, request: TrainingRequest) -> Training:
        """Queue a training; it is on disk when this returns.

        Raises:
            Busy: too many wait.
            StorageError: it cannot be kept.
        """
        with self._lock:
            if len(self.waiting()) >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} trainings wait already", remedy="Cancel some, or wait")
            training = Training.create(self._folder, request)
            self._trainings[request.id] = training
            return training

    def again(self, training_id: str) -> Training:
        """Queue the same training once more, after it did not come to its end.

        Raises:
            NotServed: an unknown id.
            Conflict: it waits, runs or came to its end.
            Busy, StorageError: as of :meth:`add`.
        """
        with self._lock:
            before = self.find(training_id)
            if before.state.state not in ENDED or before.state.state == "done":
                done = before.state.state == "done"
                raise Conflict(
                    f"this training {'came to its end' if done else 'is under way'}",
                    remedy="Press Train for another" if done else "Wait for it, or cancel it",
                )
            return self.add(before.request.again())

    def cancel(self, training_id: str | None = None) -> Training | None:
        """End a training in order: by its id, else the running one, else the first that waits. None: there is none.

        Raises:
            NotServed: an unknown id.
        """
        with self._lock:
            training = self.find(training_id) if training_id else self.current()
            if training is None or training.state.state in ENDED:
                return training
            if training.state.state == "waiting":
                return self._end(training, "cancelled", "Cancelled before it began.")
            if self._stop_asked is None:
                training.ask_to_stop()
                self._stop_asked = time.monotonic()
            return training

    def find(self, training_id: str) -> Training:
        """A training by its id or run_id.

        Raises:
            NotServed: there is none.
        """
        with self._lock:
            for training in reversed(self._trainings.values()):
                if training_id in (training.request.id, training.request.run_id):
                    return training
        raise NotServed("there is no such training", remedy="GET /train/?all=true lists those that are known")

    def all(self) -> list[Training]:
        """Every training that is known, in order."""
        with self._lock:
            return list(self._trainings.values())

    def waiting(self) -> list[Training]:
        """Those that wait, the next one first."""
        return [training for training in self.all() if training.state.state == "waiting"]

    def running(self) -> Training | None:
        """The one that runs."""
        return next((training for training in self.all() if training.state.state == "running"), None)

    def current(self) -> Training | None:
        """The one that runs, else the next one, else the last that has ended; None: nothing was ever trained."""
        latest = sorted(self.all(), key=lambda training: training.state.ended or 0.0)[-1:]
        return self.running() or next(iter(self.waiting() or latest), None)

    def _watch(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_LOOKS):
            try:
                self._look()
            except Exception:  # the watch must not end; what failed is in the log
                logger.exception("The trainings could not be looked after")

    def _look(self) -> None:
        with self._lock:
            running, waiting = self.running(), self.waiting()
            if running is not None:
                if not self._is_alive(running):
                    self._conclude(running)
                elif self._stop_asked is not None and time.monotonic() - self._stop_asked > PATIENCE:
                    logger.warning("Training %s does not end and is killed", running.request.id)
                    self._kill(running)
        if running is None and waiting:
            self._start(waiting[0])

    def _start(self, training: Training) -> None:
        """Begin a training; its files may have to be fetched, and nobody waits for that with the lock."""
        try:
            self._prepare(training).write(training.folder)
        except (FM3DError, OSError) as error:
            with self._lock:
                self._end(training, "failed", str(error))
            return
        with self._lock:
            if self._trainings[training.request.id].state.state != "waiting":  # cancelled meanwhile
                return
            self._stop_asked = None
            try:
                self._process = _run(training.folder)
            except OSError as error:
                self._end(training, "failed", f"The training cannot be started ({error.strerror}).")
                return
            created = None
            with contextlib.suppress(psutil.NoSuchProcess):
                created = psutil.Process(self._process.pid).create_time()
            try:
                self._trainings[training.request.id] = training.changed(
                    state="running", pid=self._process.pid, pid_created=created, started=time.time(), message=""
                )
            except StorageError as error:  # the next server could not find it
                self._process.kill()
                self._end(training, "failed", str(error))

    def _is_alive(self, training: Training) -> bool:
        if self._process is not None and self._process.pid == training.state.pid:
            return self._process.poll() is None
        process = _process_of(training)  # of an earlier server
        return process is not None and process.status() != psutil.STATUS_ZOMBIE

    def _kill(self, training: Training) -> None:
        process = _process_of(training)
        if process is not None:
            for each in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)

    def _conclude(self, training: Training) -> None:
        """The process has ended: what it said last decides, or its silence."""
        told = training.progress
        state, message = str(told.get("state", "")), str(told.get("message") or told.get("error") or "")
        code = self._process.returncode if self._process is not None else None
        if state not in ENDED:
            state = "cancelled" if training.stop_was_asked else "interrupted"
            message = "It did not end in time and was stopped." if training.stop_was_asked else KILLED
            if code is not None and code > 0:  # by itself
                state, message = "failed", SILENT.format(line=(training.log_lines(1) or ["(empty)"])[-1])
            if shutil.disk_usage(training.folder).free < FULL:
                state, message = "failed", DISK_FULL
        self._process, self._stop_asked = None, None
        self._end(training, state, message)

    def _end(self, training: Training, state: str, message: str) -> Training:
        """It has ended, even where that cannot be written: the next server then finds out for itself."""
        try:
            ended = training.changed(state=state, ended=time.time(), message=message)
        except StorageError as error:
            logger.error("The end of training %s cannot be noted: %s", training.request.id, error)
            said = f"{message} Its end could not be noted: {error.problem}."
            ended = replace(training, state=replace(training.state, state=state, ended=time.time(), message=said))
        self._trainings[training.request.id] = ended
        shutil.rmtree(training.folder / "labels", ignore_errors=True)
        for old in [each for each in self.all() if each.state.state in ENDED][:-KEPT]:
            shutil.rmtree(old.folder, ignore_errors=True)
            del self._trainings[old.request.id]
        self._on_end(ended)
        return ended


def _run(folder: Path) -> subprocess.Popen[bytes]:
    """The process of a training, in a session of its own: neither Ctrl-C nor the end of the terminal reaches it."""
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "MonaiLabelApp.lib.training.process", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            start_new_session=True,
        )


def _process_of(training: Training) -> psutil.Process | None:
    """The training's process, if that number is still the same process."""
    pid, created = training.state.pid, training.state.pid_created
    try:
        process = psutil.Process(pid) if pid else None
        return process if process and created and abs(process.create_time() - created) < 1 else None
    except psutil.NoSuchProcess:
        return None


def _import_path() -> list[str]:
    """Where the process finds our packages, however the server was started."""
    own = str(Path(__file__).resolve().parents[3])
    return [own, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != own)]


def as_task(training: Training) -> dict[str, Any]:
    """A training as MONAI Label's clients know a task."""
    words = {"waiting": "SUBMITTED", "running": "RUNNING", "done": "DONE", "cancelled": "STOPPED"}
    state, request = training.state, training.request
    task = {
        "id": request.id,
        "status": words.get(state.state, "ERROR"),
        "request": {"model": request.model, **_recipe(request), **dict(request.settings), "cases": list(request.cases)},
        "start_ts": _as_text(state.started or request.created),
        "run_id": request.run_id,
        "state": state.state,
        "message": state.message,
    }
    if state.state != "waiting":
        task["details"] = [*training.log_lines(), *([state.message] if state.message else [])]
    if state.ended:
        task["end_ts"] = _as_text(state.ended)
    return task


def _recipe(request: TrainingRequest) -> dict[str, str]:
    return {"recipe": request.recipe} if request.recipe else {}


def _as_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
