"""Work of minutes that a client starts, watches and cancels: the server's background jobs."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fm3d_core.errors import FM3DError, Stopped
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop
from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.lanes import Lane

logger = logging.getLogger(__name__)
KEPT = 100  # ended jobs whose result can still be fetched
JobWork = Callable[[ProgressCallback, ShouldStop], dict[str, Any]]


class Job:
    """One piece of work and where it stands.

    Attributes:
        id: names it.
        kind: what it is, such as "compare".
        state: waiting, running, done, failed or cancelled.
    """

    def __init__(self, kind: str, work: JobWork) -> None:
        self.id, self.kind, self.state = uuid.uuid4().hex, kind, "waiting"
        self._work, self._last = work, Progress("waiting", 0, 0)
        self._result: dict[str, Any] | None = None
        self._error: str | None = None
        self._stop = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("done", "failed", "cancelled")

    def run(self) -> None:
        """Do it, in a thread of the background."""
        if self._stop.is_set():
            self.state = "cancelled"
            return
        self.state = "running"
        try:
            self._result = self._work(self._watch, self._stop.is_set)
            self.state = "done"
        except Stopped:
            self.state = "cancelled"
        except FM3DError as error:
            self.state, self._error = "failed", str(error)
        except Exception:
            logger.exception("The job %s failed", self.kind)
            self.state, self._error = "failed", "The server met a fault of its own. Its log says more."

    def cancel(self) -> None:
        """Ask it to end."""
        self._stop.set()
        if self.state == "waiting":
            self.state = "cancelled"

    def to_dict(self) -> dict[str, Any]:
        """What a client sees."""
        last = self._last
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "stage": last.stage if self.state == "running" else self.state,
            "step": last.step,
            "total": last.total,
            "eta": last.eta if self.state == "running" else None,
            "result": self._result,
            "error": self._error,
        }

    def _watch(self, event: Progress) -> None:
        self._last = event


class Jobs:
    """The jobs since the server started.

    Args:
        lane: where they run, one after the other, unless another is given.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane, self._jobs, self._lock = lane, OrderedDict[str, Job](), threading.Lock()

    def start(self, kind: str, work: JobWork, lane: Lane | None = None) -> Job:
        """Queue ``work``.

        Raises:
            Busy: too many wait already.
        """
        job = Job(kind, work)
        with self._lock:
            (lane or self._lane).submit(job.run)
            self._jobs[job.id] = job
            for old in [one.id for one in self._jobs.values() if one.ended][:-KEPT]:
                del self._jobs[old]
        return job

    def find(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            NotServed: there is none.
        """
        with self._lock:
            if job_id not in self._jobs:
                raise NotServed("there is no such job", remedy="It ended long ago or the server was restarted")
            return self._jobs[job_id]
