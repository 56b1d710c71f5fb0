"""Checkpoints of a run: written whole or not at all, the newest few kept, a damaged one passed over.

``RUN/checkpoints/step_0001000/`` holds ``state.pt`` (tensors and plain data, read with ``weights_only``) and
``checkpoint.json`` (step, sha256 of the state, the whole configuration, versions).
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm3d_core.errors import SettingsError, StorageError
from fm3d_core.files import atomic_folder, sha256_of

logger = logging.getLogger(__name__)
FORMAT = 1
STATE_FILE, CARD_FILE = "state.pt", "checkpoint.json"
_NAME = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One that was read.

    Attributes:
        step: optimiser steps done.
        settings: the whole configuration of its run, plain.
        state: what :meth:`Checkpoints.write` got.
    """

    step: int
    settings: Mapping[str, Any]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        keep: newest ones that stay.
        keep_every: those at multiples of so many steps stay too; 0: none.
    """

    def __init__(self, folder: Path, keep: int = 3, keep_every: int = 0) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def steps(self) -> list[int]:
        """Steps of the complete ones, ascending."""
        if not self.folder.is_dir():
            return []
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match, path in found if match and (path / CARD_FILE).is_file())

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` steps."""
        return self.folder / f"step_{step:07d}"

    def write(self, step: int, state: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
        """Write one, then remove those that are not kept.

        Raises:
            StorageError: disk full, no permission; the earlier ones stay.
        """
        import torch

        path = self.path(step)
        if path.exists():
            shutil.rmtree(path)  # of the same run and step, as after a stop right behind a checkpoint
        with atomic_folder(path) as folder:
            torch.save(dict(state), folder / STATE_FILE)
            card = {
                "format": FORMAT,
                "step": step,
                "sha256": sha256_of(folder / STATE_FILE),
                "settings": dict(settings),
                "versions": _versions(),
            }
            (folder / CARD_FILE).write_text(json.dumps(card, indent=2), encoding="utf-8")
        self._rotate()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; None if there is none at all. Half-written and damaged ones are passed over.

        Raises:
            StorageError: there are some, but all are damaged: a new start would overwrite what may be rescued.
            SettingsError: written by a newer version of FM3D.
        """
        steps = self.steps()
        for step in reversed(steps):
            problem, checkpoint = self._read(step)
            if checkpoint is not None:
                return checkpoint
            logger.warning("%s is damaged (%s) and is passed over", self.path(step), problem)
        if steps:
            raise StorageError(
                f"all {len(steps)} checkpoints are damaged",
                path=self.folder,
                remedy="Copy one back from a backup, or start a new run in another folder",
            )
        return None

    def clean(self, newer_than: int = 0) -> None:
        """Remove what a killed process left half-written, and damaged checkpoints behind the one that is resumed."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)
        for step in self.steps():
            if step > newer_than:
                damaged = self.path(step)
                shutil.rmtree(damaged.with_suffix(".damaged"), ignore_errors=True)
                damaged.rename(damaged.with_suffix(".damaged"))

    def _read(self, step: int) -> tuple[str, Checkpoint | None]:
        import torch

        path = self.path(step)
        try:
            card = json.loads((path / CARD_FILE).read_text(encoding="utf-8"))
            if card["format"] > FORMAT:
                raise SettingsError("was written by a newer FM3D", path=path, remedy="Update FM3D")
            if sha256_of(path / STATE_FILE) != card["sha256"]:
                return "its content changed after it was written", None
            state = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
            return "", Checkpoint(int(card["step"]), card["settings"], state)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            return " ".join(str(error).split()) or type(error).__name__, None

    def _rotate(self) -> None:
        for step in self.steps()[: -self.keep]:
            if not (self.keep_every and step % self.keep_every == 0):
                shutil.rmtree(self.path(step), ignore_errors=True)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    import fm3d_core

    return {"fm3d": fm3d_core.__version__, **{name: version(name) for name in ("torch", "lightning-fabric")}}
