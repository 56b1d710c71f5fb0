"""What a network sees in a volume: its features as colours, its attention, its uncertainty."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from MonaiLabelApp.lib.errors import told_as
from MonaiLabelApp.lib.infers.base import Asked, ServedInfer, Tools
from MonaiLabelApp.lib.infers.result import Result, new_file
from MonaiLabelApp.lib.requests import InsightRequest
from MonaiLabelApp.lib.volumes import warnings_of_core

if TYPE_CHECKING:
    from fm3d_core.inference import Predictor


class InsightInfer(ServedInfer):
    """Gives a map on the image's own grid.

    Args:
        tools: what infer tasks share.
    """

    request = InsightRequest

    def __init__(self, tools: Tools) -> None:
        super().__init__(InferType.OTHERS, tools, "Shows features, attention and uncertainty of the network")

    def config(self) -> dict[str, Any]:
        """The choices in a client's table."""
        return {"kind": ["pca", "attention", "uncertainty"]}

    def answer(self, asked: Asked) -> Result:
        """Look at one image.

        Returns:
            NIfTI: RGB24 of the features, else float32; ``kind``, ``version``, ``seconds``, ``warnings``.

        Raises:
            AdapterError: attention of a network that has none.
            FM3DError: see :meth:`SegmentationInfer.answer`.
        """
        parameters: InsightRequest = asked.parameters
        started = time.monotonic()
        with told_as(asked.image.id), warnings_of_core() as warnings:
            version, predictor = self.tools.predictors.get(parameters.version)
            write = _look(parameters.kind, predictor, asked)
        file = new_file(f"{parameters.kind}-", parameters.result_extension, write)
        params = {
            "kind": parameters.kind,
            "version": version,
            "seconds": round(time.monotonic() - started, 3),
            "warnings": [*asked.image.warnings, *warnings],
        }
        return Result(file, params)


def _look(kind: str, predictor: Predictor, asked: Asked) -> Callable[[Path], Any]:
    """What was asked for, as a writer of its file."""
    from fm3d_core.inference.attention import attention_map
    from fm3d_core.inference.insight import feature_colours
    from fm3d_core.volumes import write_colours, write_map

    volume = asked.image.volume
    if kind == "pca":
        colours = feature_colours(predictor, volume, should_stop=asked.should_stop)
        return lambda path: write_colours(path, colours, like=volume)
    if kind == "attention":
        attention = attention_map(predictor, volume, should_stop=asked.should_stop)
        return lambda path: write_map(path, attention, like=volume)
    uncertainty = predictor.predict(volume, should_stop=asked.should_stop).uncertainty
    return lambda path: write_map(path, uncertainty, like=volume)
