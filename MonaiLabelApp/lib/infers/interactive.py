"""Segmentation from clicks, scribbles and a box, also of structures that nothing was trained for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from fm3d_core.errors import LabelError
from MonaiLabelApp.lib.errors import told_as
from MonaiLabelApp.lib.infers.base import Asked, ServedInfer, Tools
from MonaiLabelApp.lib.infers.result import Result, new_file
from MonaiLabelApp.lib.requests import BoxPrompt, InteractiveRequest
from MonaiLabelApp.lib.volumes import ReadImage, warnings_of_core

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fm3d_core.inference.interactive import Box

STRANGE = 2  # the highest value of a scribble


class InteractiveInfer(ServedInfer):
    """Segments what the prompts show; keeps the features of the images worked on, so that a click is quick.

    It holds no state of a client: all prompts come each time, and undoing is asking without the last.

    Args:
        tools: what infer tasks share.
    """

    lane = "clicks"
    request = InteractiveRequest
    takes_label = True

    def __init__(self, tools: Tools) -> None:
        from fm3d_core.inference.interactive import FeatureCache

        super().__init__(InferType.OTHERS, tools, "Segments what clicks, scribbles and a box show")
        self._features = FeatureCache()

    def info(self) -> dict[str, Any]:
        """What a client sees; any structure can be asked for, so no labels are listed."""
        return {**super().info(), "labels": {}}

    def answer(self, asked: Asked) -> Result:
        """Segment one structure.

        Returns:
            The label map on the image's own grid, 1 where the structure is; ``label_names``, ``seconds``, ``warnings``.

        Raises:
            SettingsError: prompts that say nothing or lie outside of the image.
            LabelError: the label map that came lies on another grid or has other values.
            Stopped: nobody waits any more.
        """
        from fm3d_core.inference.interactive import FeatureVolume, Point, Prompts, segment_from_prompts
        from fm3d_core.volumes import write_label

        parameters: InteractiveRequest = asked.parameters
        started = time.monotonic()
        volume = asked.image.volume
        drawn = None if asked.label is None else _drawn(asked.label, asked.image)
        with told_as(asked.image.id), warnings_of_core() as warnings:
            prompts = Prompts.of(
                [Point(each.position, each.positive) for each in parameters.points],
                box=_box(parameters.box),
                scribbles=drawn if parameters.given == "scribbles" else None,
            )
            key = f"{asked.image.id} {asked.image.stamp}"
            segmentation = segment_from_prompts(
                volume,
                self._features.get(key, lambda: FeatureVolume(volume)),
                prompts,
                roi=_box(parameters.roi),
                given=drawn if parameters.given == "segmentation" else None,
                should_stop=asked.should_stop,
            )
        file = new_file(
            "interactive-", parameters.result_extension, lambda path: write_label(path, segmentation, like=volume)
        )
        params = {
            "label_names": {parameters.structure: 1},
            "seconds": round(time.monotonic() - started, 3),
            "warnings": [*asked.image.warnings, *warnings],
        }
        return Result(file, params)


def _box(box: BoxPrompt | None) -> Box | None:
    from fm3d_core.inference.interactive import Box

    return None if box is None else Box(box.low, box.high)


def _drawn(path: Path, image: ReadImage) -> npt.NDArray[np.uint8]:
    """The label map that came, on the image's RAS grid.

    Raises:
        LabelError: it lies on another grid, or holds other values than 0, 1 and 2.
    """
    from fm3d_core.volumes import check_label, read_label

    with told_as("the label map"):
        label = read_label(path)
        check_label(label, image.volume, allow_empty=True)
    if int(label.array.max()) > STRANGE:
        raise LabelError(
            f"the label map holds the value {int(label.array.max())}",
            remedy="Send 1 for the structure and 2 for what it is not",
        )
    return label.array
