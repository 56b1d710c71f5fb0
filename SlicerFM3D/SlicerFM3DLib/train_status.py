"""Where a training stands, read from what MONAI Label's and FM3D's servers say about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .translation import tr as _

WAITING, RUNNING = "waiting", "running"
# MONAI Label's words for the state of a task.
_STATES = {"SUBMITTED": WAITING, "RUNNING": RUNNING, "DONE": "done", "ERROR": "failed", "STOPPED": "cancelled"}


@dataclass(frozen=True)
class EarlyVersion:
    """A version that came out of a stage.

    Attributes:
        number: the version.
        stage: the stage's key, such as ``linear_probe``.
        seconds: since the start of the training, None if unknown.
        active: whether segmenting uses it.
    """

    number: int
    stage: str = ""
    seconds: float | None = None
    active: bool = False


@dataclass(frozen=True)
class TrainStatus:
    """Where a training stands.

    Attributes:
        state: ``never``, ``waiting``, ``running``, ``done``, ``failed``, ``cancelled`` or ``interrupted``.
        stage: what is being done, in words; empty until the server tells.
        step, total: steps done and planned in this stage; total 0 while unknown.
        elapsed, eta: seconds since the start and seconds left, None while unknown.
        loss: the training loss, None while unknown.
        metrics: named figures such as ``{"dice": 0.81}``.
        curve: (seconds, loss) so far.
        versions: what can be used already, the newest last.
        queued: how many trainings come before this one.
        runId: which run these figures belong to.
        version: the adapter version that came out, when done.
        leftOut: cases that could not be used, each with its reason.
        message: the server's own remark.
        error: what went wrong, in words.
        id: under which FM3D's own server knows it; "" on a stock server.
    """

    state: str
    stage: str = ""
    step: int = 0
    total: int = 0
    elapsed: float | None = None
    eta: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()
    versions: tuple[EarlyVersion, ...] = ()
    queued: int = 0
    runId: str = ""
    version: int | None = None
    leftOut: tuple[str, ...] = ()
    message: str = ""
    error: str = ""
    id: str = ""

    @property
    def canStartAgain(self) -> bool:
        """Whether the same training can be asked for once more."""
        return bool(self.id) and self.state in ("interrupted", "failed")

    @property
    def isActive(self) -> bool:
        """Whether the training waits or runs."""
        return self.state in (WAITING, RUNNING)


def runIdOf(stats: Mapping[str, Any]) -> str:
    """Which run these figures belong to."""
    return str(stats.get("run_id") or stats.get("start_ts") or "")


def parseOwnStatus(task: Mapping[str, Any], stats: Mapping[str, Any]) -> TrainStatus:
    """A status of one training of a queue; ``stats`` are those of whichever runs."""
    if task.get("run_id") and task["run_id"] == stats.get("run_id"):
        return parseStatus(task, stats)
    others = [entry["id"] for entry in stats.get("queue") or ()]
    before = others.index(task["id"]) + (stats.get("state") == RUNNING) if task.get("id") in others else 0
    return parseStatus(task, {"message": task.get("message")}, before)


def parseStatus(task: Mapping[str, Any], stats: Mapping[str, Any], queued: int = 0) -> TrainStatus:
    """A status from the answer of ``GET /train/`` and the figures in ``/info/``; the figures may be missing.

    :param queued: how many trainings come before this one.
    """
    state = _state(str(task.get("state") or task.get("status") or "never"), str(stats.get("state") or ""))
    metrics = dict(stats.get("metrics") or {})
    if stats.get("dice") is not None:
        metrics.setdefault("dice", stats["dice"])
    return TrainStatus(
        state=state,
        stage=str(stats.get("stage") or ""),
        step=int(stats.get("step") or 0),
        total=int(stats.get("total") or 0),
        elapsed=stats.get("elapsed"),
        eta=stats.get("eta"),
        loss=stats.get("loss"),
        metrics={name: float(value) for name, value in metrics.items() if value is not None},
        curve=tuple((float(seconds), float(loss)) for seconds, loss in stats.get("curve") or () if loss is not None),
        versions=_versions(stats.get("versions") or ()),
        queued=queued,
        runId=runIdOf(stats),
        version=stats.get("version"),
        leftOut=tuple(stats.get("left_out") or ()),
        message=str(stats.get("message") or ""),
        error=str(stats.get("error") or _lastLine(task)) if state == "failed" else "",
        id=str(task["id"]) if task.get("run_id") else "",
    )


def _state(task: str, stats: str) -> str:
    """The task says whether anything goes on, the figures may know better how it ended."""
    state = _STATES.get(task.upper(), task.lower())
    if state == RUNNING and stats == WAITING:
        return WAITING
    return stats if state == "failed" and stats in ("cancelled", "interrupted") else state


def _versions(entries: Sequence[Mapping[str, Any]]) -> tuple[EarlyVersion, ...]:
    return tuple(
        EarlyVersion(int(e["version"]), str(e.get("stage") or ""), e.get("seconds"), bool(e.get("active")))
        for e in entries
    )


def _lastLine(task: Mapping[str, Any]) -> str:
    """The exception's text: the end of a failed process's log, without the exception's class."""
    lines = [line for line in task.get("details") or [] if line.strip()]
    if not lines:
        return _("The training failed without a reason. The server's log says more.")
    return re.sub(r"^[\w.]*(Error|Exception|Stopped): ", "", lines[-1])
