"""One training on disk: what was asked for, where it stands, what came out. The server and the process share it."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fm3d_core.errors import StorageError
from fm3d_core.files import atomic_file
from MonaiLabelApp.lib.progress_file import read_progress

ENDED = ("done", "failed", "cancelled", "interrupted")
STOP_FILE = "stop"


@dataclass(frozen=True)
class TrainingRequest:
    """What a training was asked to do, fixed when it was accepted.

    Attributes:
        id: names the training and its folder; later ones sort behind.
        run_id: given by the client, or the id; stamped into the progress.
        model: the trainer's name.
        created: seconds since 1970.
        structures: what is learned.
        cases: ids of the images to learn from.
        settings: of ``fm3d_core.adaptation.FinetuneSettings``, in plain data; with a recipe, what goes before it.
        recipe: name of the recipe; empty: none.
    """

    id: str
    run_id: str
    model: str
    created: float
    structures: tuple[str, ...]
    cases: tuple[str, ...]
    settings: Mapping[str, Any]
    recipe: str = ""

    @classmethod
    def new(
        cls,
        model: str,
        structures: tuple[str, ...],
        cases: tuple[str, ...],
        settings: Mapping[str, Any],
        run_id: str | None,
        recipe: str = "",
    ) -> TrainingRequest:
        """A request of this moment."""
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}-{uuid.uuid4().hex[:6]}"
        return cls(name, run_id or name, model, time.time(), structures, cases, dict(settings), recipe)

    def again(self) -> TrainingRequest:
        """The same, asked for at this moment."""
        return type(self).new(self.model, self.structures, self.cases, self.settings, None, self.recipe)


@dataclass(frozen=True)
class TrainingState:
    """Where the server sees a training.

    Attributes:
        state: waiting, running, or one of ``ENDED``.
        pid, pid_created: the process, None before it was started; both, because numbers of processes come again.
        started, ended: seconds since 1970.
        message: what happened, in words.
    """

    state: str = "waiting"
    pid: int | None = None
    pid_created: float | None = None
    started: float | None = None
    ended: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Training:
    """A training's folder.

    Attributes:
        folder: holds ``request.json``, ``state.json``, ``progress.json``, ``work.json``, ``log.txt``, ``stop``.
        request: what was asked for.
        state: where it stands; :meth:`changed` writes another.
    """

    folder: Path
    request: TrainingRequest
    state: TrainingState = field(default_factory=TrainingState)

    @classmethod
    def create(cls, root: Path, request: TrainingRequest) -> Training:
        """Write a new, waiting one.

        Raises:
            StorageError: it cannot be kept.
        """
        training = cls(root / request.id, request)
        _write(training.folder / "state.json", asdict(training.state))
        _write(training.folder / "request.json", asdict(request))  # last: a folder with it is complete
        return training

    @classmethod
    def read(cls, folder: Path) -> Training | None:
        """A training as it was left; None if the folder holds none."""
        try:
            data = json.loads((folder / "request.json").read_text(encoding="utf-8"))
            request = TrainingRequest(
                **{**data, "structures": tuple(data["structures"]), "cases": tuple(data["cases"])}
            )
            state = TrainingState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return cls(folder, request, state)

    def changed(self, **values: Any) -> Training:
        """The same training in another state, which is written first."""
        state = replace(self.state, **values)
        _write(self.folder / "state.json", asdict(state))
        return replace(self, state=state)

    @property
    def progress(self) -> dict[str, Any]:
        """What its process last wrote; {} before that."""
        try:
            return read_progress(self.folder / "progress.json")
        except StorageError:
            return {}

    def ask_to_stop(self) -> None:
        """Set the file that the process looks for at every step."""
        _write(self.folder / STOP_FILE, {})

    @property
    def stop_was_asked(self) -> bool:
        """Whether somebody cancelled it."""
        return (self.folder / STOP_FILE).exists()

    def log_lines(self, count: int = 20) -> list[str]:
        """The end of what its process wrote."""
        try:
            text = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-count:]


@dataclass(frozen=True)
class Work:
    """What the process is given.

    Attributes:
        run_id, structures, settings: of the request.
        cases: ``{"name", "image", "label", "info"}`` each: files, and the label_info that came with the label.
        left_out: why further cases are not among them.
        store: folder of the adapters.
        memory: most bytes; None: no bound.
        recipe: name of the recipe; empty: none. Cases then have "images", "fields" and "part" too, and no label where
            the question is about whole volumes.
    """

    run_id: str
    structures: tuple[str, ...]
    settings: Mapping[str, Any]
    cases: tuple[Mapping[str, Any], ...]
    left_out: tuple[str, ...]
    store: str
    memory: int | None
    recipe: str = ""

    def write(self, folder: Path) -> None:
        """Into a training's folder."""
        _write(folder / "work.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Work:
        """As :meth:`write` left it."""
        data = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        return cls(**{**data, **{name: tuple(data[name]) for name in ("structures", "cases", "left_out")}})


def keep_copy(source: Path, target: Path) -> Path:
    """A label as it is now, under a name of the training's own: a later submission replaces the file, not this one."""
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, default=str), encoding="utf-8")
