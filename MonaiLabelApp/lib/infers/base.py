"""What every infer task of the server has: its lane, its request, and what it needs to answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from fm3d_core.progress import ShouldStop, never_stop
from MonaiLabelApp.lib.infers.result import Result
from MonaiLabelApp.lib.predictors import Predictors
from MonaiLabelApp.lib.quality import CaseJudge
from MonaiLabelApp.lib.requests import InferRequest
from MonaiLabelApp.lib.volumes import ImageCache, ReadImage


@dataclass(frozen=True)
class Tools:
    """What infer tasks share.

    Attributes:
        predictors: of the adapters.
        images: as read.
        structures: names of the structures, in the order of their voxel values.
        judge: says what Dice to expect of a segmentation.
    """

    predictors: Predictors
    images: ImageCache
    structures: Callable[[], tuple[str, ...]]
    judge: CaseJudge


@dataclass(frozen=True)
class Asked:
    """One inference.

    Attributes:
        image: what is looked at.
        parameters: checked, of the task's own ``request``.
        label: a file that came with it; None without one.
        should_stop: true once nobody waits any more.
    """

    image: ReadImage
    parameters: Any
    label: Path | None = None
    should_stop: ShouldStop = never_stop


class ServedInfer(InferTask):  # type: ignore[misc]
    """An infer task behind ``POST /infer/NAME``.

    Args:
        kind: as which MONAI Label's clients offer it.
        tools: what it needs.
        description: for clients.

    Attributes:
        lane: in which of the server's lanes it runs.
        request: what a client may send.
        takes_label: whether a label map may come with the request.
    """

    lane: ClassVar[str] = "segmenting"
    request: ClassVar[type[InferRequest]] = InferRequest
    takes_label: ClassVar[bool] = False

    def __init__(self, kind: InferType, tools: Tools, description: str) -> None:
        super().__init__(kind, labels=None, dimension=3, description=description)
        self.tools = tools

    def is_valid(self) -> bool:
        """Always offered: a client should see the model before the first training."""
        return True

    def info(self) -> dict[str, Any]:
        """What a client sees: the structures by voxel value, without gaps."""
        names = self.tools.structures()
        return {**super().info(), "labels": {name: value for value, name in enumerate(names, start=1)}}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """MONAI Label's own form of the call; the server uses :meth:`answer`."""
        result = self.answer(request["asked"])
        return str(result.file or ""), result.params

    @abstractmethod
    def answer(self, asked: Asked) -> Result:
        """Do it, on a thread of the lane.

        Raises:
            FM3DError: it cannot be done, in words.
            Stopped: nobody waits any more.
        """
