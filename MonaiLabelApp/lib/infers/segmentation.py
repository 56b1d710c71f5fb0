"""Automatic segmentation by an adapter."""

from __future__ import annotations

import time
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.errors import told_as
from MonaiLabelApp.lib.infers.base import Asked, ServedInfer, Tools
from MonaiLabelApp.lib.infers.result import Result, new_file
from MonaiLabelApp.lib.requests import SegmentationRequest
from MonaiLabelApp.lib.volumes import warnings_of_core

VARIANTS = 2  # slightly changed images that are segmented when the uncertainty is asked for


class SegmentationInfer(ServedInfer):
    """Segments an image with the active adapter, a numbered version, or the untrained network.

    Args:
        tools: what infer tasks share.
        adapters: the versions to choose from.
    """

    request = SegmentationRequest

    def __init__(self, tools: Tools, adapters: Adapters) -> None:
        super().__init__(InferType.SEGMENTATION, tools, "Segments a volume with what was learned")
        self._adapters = adapters

    def config(self) -> dict[str, Any]:
        """The choices in a client's table; MONAI Label's plugin offers lists of strings, the first one chosen."""
        able = [stored for stored in self._adapters.versions() if not stored.card.task.whole_volume]
        return {"version": ["active", "untrained", *(str(stored.version) for stored in able)]}

    def answer(self, asked: Asked) -> Result:
        """Segment one image.

        Returns:
            The label map, on the image's own grid; ``label_names``, ``version``, ``seconds``, ``warnings``, and
            ``expected_dice`` of this volume (``value``, ``low``, ``high``, ``reasons``, or None), and ``removed_ml``:
            structure -> ml of small parts apart from the rest of it that were taken out.

        Raises:
            Conflict: nothing was learned yet.
            NotServed: there is no such version.
            FM3DError: the image or the adapter cannot be used.
            Stopped: nobody waits any more.
        """
        from fm3d_core.volumes import write_label

        parameters: SegmentationRequest = asked.parameters
        started = time.monotonic()
        volume = asked.image.volume
        with told_as(asked.image.id), warnings_of_core() as warnings:
            version, predictor = self.tools.predictors.get(parameters.version)
            variants = VARIANTS if parameters.uncertainty else 0
            prediction = predictor.predict(volume, variants=variants, should_stop=asked.should_stop)
            expected = self.tools.judge.judge(version, predictor, prediction, asked.should_stop)
        file = new_file(
            "segmentation-", parameters.result_extension, lambda path: write_label(path, prediction.labels, like=volume)
        )
        params = {
            "label_names": predictor.card.task.values,
            "version": version,
            "expected_dice": expected,
            "removed_ml": {name: round(size, 2) for name, size in prediction.removed.items() if size >= 0.01},
            "seconds": round(time.monotonic() - started, 3),
            "warnings": [*asked.image.warnings, *warnings],
        }
        return Result(file, params)
