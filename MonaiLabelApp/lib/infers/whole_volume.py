"""Answers about whole volumes, such as a class or a value, as JSON."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.errors import Conflict, told_as
from MonaiLabelApp.lib.infers.base import Asked, ServedInfer, Tools
from MonaiLabelApp.lib.infers.result import Result
from MonaiLabelApp.lib.requests import WholeVolumeRequest
from MonaiLabelApp.lib.volumes import warnings_of_core

if TYPE_CHECKING:
    from fm3d_core.inference import ImagePredictor


class WholeVolumeInfer(ServedInfer):
    """Answers by a version that was trained about whole volumes (``fm3d finetune --recipe``), or was uploaded.

    Args:
        tools: what infer tasks share.
        adapters: the versions to choose from.
    """

    request = WholeVolumeRequest

    def __init__(self, tools: Tools, adapters: Adapters) -> None:
        super().__init__(
            InferType.OTHERS, tools, "Answers a question about a whole volume: class, findings, value, risk"
        )
        self._adapters = adapters
        self._kept: tuple[int, ImagePredictor] | None = None  # the one that answered last
        self._lock = threading.Lock()

    def config(self) -> dict[str, Any]:
        """The choices in a client's table."""
        return {"version": ["active", *(str(number) for number in self._versions())]}

    def info(self) -> dict[str, Any]:
        """What a client sees; there are no structures."""
        return {**super().info(), "labels": {}}

    def answer(self, asked: Asked) -> Result:
        """Answer about one image.

        Returns:
            No file; ``answer`` (what the task's ``describe`` gives), ``kind`` of the task, ``version``, ``seconds``,
            ``warnings``.

        Raises:
            Conflict: nothing was learned about whole volumes.
            NotServed: there is no such version.
            FM3DError: the image or the adapter cannot be used, or the version is about voxels.
            Stopped: nobody waits any more.
        """
        parameters: WholeVolumeRequest = asked.parameters
        started = time.monotonic()
        with told_as(asked.image.id), warnings_of_core() as warnings:
            version, predictor = self._predictor(parameters.version)
            found = predictor.predict(asked.image.volume, should_stop=asked.should_stop)
        params = {
            "answer": found,
            "kind": predictor.task.kind,
            "version": str(version),
            "seconds": round(time.monotonic() - started, 3),
            "warnings": [*asked.image.warnings, *warnings],
        }
        return Result(None, params)

    def _versions(self) -> list[int]:
        """Those about whole volumes, oldest first."""
        return [stored.version for stored in self._adapters.versions() if stored.card.task.whole_volume]

    def _predictor(self, wanted: str) -> tuple[int, ImagePredictor]:
        """A version and its predictor. "active": the active version if it is about whole volumes, else the newest."""
        from fm3d_core.inference import ImagePredictor

        if wanted == "active":
            able, active = self._versions(), self._adapters.active()
            if not able:
                raise Conflict(
                    "no version answers about whole volumes",
                    remedy="Train one by a recipe about whole volumes or with fm3d finetune --task, or upload one",
                )
            version = active.version if active is not None and active.version in able else able[-1]
        else:
            version = self._adapters.find(int(wanted)).version
        with self._lock:
            if self._kept is None or self._kept[0] != version:
                self._kept = version, ImagePredictor(self._adapters.store.load(version))
            return self._kept
