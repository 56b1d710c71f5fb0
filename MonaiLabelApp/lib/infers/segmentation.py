"""Automatic segmentation by an adapter."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from MonaiLabelApp.lib.errors import Conflict, NotServed, told_as
from MonaiLabelApp.lib.requests import InferRequest

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore
    from fm3d_core.inference import Predictor

PREDICTORS_KEPT = 2  # the active one and the one it is compared with; each holds a network


class SegmentationInfer(InferTask):  # type: ignore[misc]
    """Segments an image with the active adapter, a numbered version, or the untrained network.

    Args:
        store: the adapters.
        structures: gives the names an adapter would have before there is one.
    """

    def __init__(self, store: AdapterStore, structures: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(
            InferType.SEGMENTATION, labels=None, dimension=3, description="Segments a volume with what was learned"
        )
        self._store, self._structures = store, structures
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()

    def is_valid(self) -> bool:
        """Always offered: a client should see the model before the first training."""
        return True

    def info(self) -> dict[str, Any]:
        """What a client sees: the structures by voxel value, without gaps, and the versions to choose from."""
        names = self._structures()
        return {**super().info(), "labels": {name: value for value, name in enumerate(names, start=1)}}

    def config(self) -> dict[str, Any]:
        """The choices in a client's table; MONAI Label's plugin offers lists of strings, the first one chosen."""
        return {"version": ["active", "untrained", *(str(stored.version) for stored in self._store.versions())]}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment one image.

        Args:
            request: ``image`` (a Path), ``image_id``, and ``parameters`` (an InferRequest).

        Returns:
            The file of the label map, on the image's own grid, and what a client needs to read it.

        Raises:
            Conflict: nothing was learned yet.
            NotServed: there is no such version.
            FM3DError: the image or the adapter cannot be used.
        """
        from fm3d_core.volumes import read_volume, write_label

        parameters: InferRequest = request["parameters"]
        started = time.monotonic()
        with told_as(request["image_id"]), _warnings_of_core() as warnings:
            volume = read_volume(request["image"], allow_nonfinite=True)
            version, predictor = self._predictor(parameters.version)
            segmentation = predictor.segment(volume)
        descriptor, result = tempfile.mkstemp(prefix="segmentation-", suffix=parameters.result_extension)
        os.close(descriptor)
        try:
            write_label(result, segmentation, like=volume)
        except BaseException:
            Path(result).unlink()
            raise
        return result, {
            "label_names": predictor.card.task.values,
            "version": version,
            "seconds": round(time.monotonic() - started, 3),
            "warnings": [warning.replace(str(request["image"]), request["image_id"]) for warning in warnings],
        }

    def _predictor(self, version: str) -> tuple[str, Predictor]:
        """The version asked for, by its number, and its predictor: built once, then kept."""
        from fm3d_core.inference import Predictor

        if version == "active":
            active = self._store.active()
            if active is None:
                raise Conflict(
                    "nothing has been learned yet", remedy="Submit labelled volumes and press Train, then segment"
                )
            version = str(active.version)
        key = f"{version} {self._structures()}" if version == "untrained" else version
        if key not in self._predictors:
            self._predictors[key] = Predictor(self._adapter(version))
            while len(self._predictors) > PREDICTORS_KEPT:
                self._predictors.popitem(last=False)
        self._predictors.move_to_end(key)
        return version, self._predictors[key]

    def _adapter(self, version: str) -> Adapter:
        from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
        from fm3d_core.tasks import SegmentationTask

        if version == "untrained":
            names = self._structures()
            if not names:
                raise Conflict(
                    "no structure is known yet", remedy="Start the server with labels or submit a labelled volume"
                )
            return untrained_adapter(SegmentationTask(names), FinetuneSettings())
        known = {stored.version for stored in self._store.versions()}
        if int(version) not in known:
            raise NotServed(
                f"there is no adapter version {version}",
                remedy=f"Versions here: {', '.join(map(str, sorted(known))) or 'none'}",
            )
        return self._store.load(int(version))


@contextmanager
def _warnings_of_core() -> Iterator[list[str]]:
    """Collects what fm3d_core warns of in the block, for the client to show."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    collector, core = Collector(logging.WARNING), logging.getLogger("fm3d_core")
    core.addHandler(collector)
    try:
        yield messages
    finally:
        core.removeHandler(collector)
