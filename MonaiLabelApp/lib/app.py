"""The app: it wires datastore, inference and training to MONAI Label and checks what comes in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.async_tasks.utils import tasks

from fm3d_core import __version__
from fm3d_core.adaptation import AdapterStore
from fm3d_core.errors import FM3DError
from MonaiLabelApp.lib import http
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.infers.segmentation import SegmentationInfer
from MonaiLabelApp.lib.labels import submitted_structures
from MonaiLabelApp.lib.requests import InferRequest, TrainRequest, parse
from MonaiLabelApp.lib.trainers.segmentation import SegmentationTrainer

MODEL = "segmentation"
# What MONAI Label itself puts into a request on its way to the training process.
_ADDED_ON_THE_WAY = frozenset({"model", "gpus", "local_rank"})


class FM3DApp(MONAILabelApp):  # type: ignore[misc]
    """FM3D in a MONAI Label server.

    Args:
        app_dir: the folder with main.py; MONAI Label writes its logs into it.
        studies: the folder of images.
        conf: ``labels`` ("a,b": the structures; default: those of the active adapter, or of the submitted labels) and
            ``adapters`` (folder of the adapter store; default ``app_dir/model/adapters``).
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        model_folder = Path(app_dir) / "model"
        self._configured = tuple(name.strip() for name in conf.get("labels", "").split(",") if name.strip())
        self._store = AdapterStore(conf.get("adapters") or model_folder / "adapters")
        self._progress = model_folder / "progress.json"
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="FM3D",
            description="3D foundation models a clinician can teach. Research use only.",
            version=__version__,
        )

    def init_datastore(self) -> CheckedDatastore:
        """The study folder."""
        if "://" in self.studies:
            raise NotServed(f"studies on {self.studies} are not served yet", remedy="Give a folder")
        return CheckedDatastore(self.studies)

    def init_infers(self) -> dict[str, SegmentationInfer]:
        """The one model."""
        return {MODEL: SegmentationInfer(self._store, self.structures)}

    def init_trainers(self) -> dict[str, SegmentationTrainer]:
        """Its training."""
        return {MODEL: SegmentationTrainer(self._store, self._progress, self._configured)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which volume is labelled next."""
        return {"random": Random(), "first": First()}

    def init_batch_infer(self) -> None:
        """Not served."""

    def on_init_complete(self) -> None:
        """Called in the server, not in a training: look for images, and put our front before the endpoints.

        MONAI Label's own version starts jobs for sessions and scoring, which are not served.
        """
        from monailabel.app import app as server

        self.datastore().refresh()
        http.install(server, self)

    def structures(self) -> tuple[str, ...]:
        """The structures a client sees, in the order of their voxel values 1 to N."""
        if self._configured:
            return self._configured
        active = self._store.active()
        return tuple(active.card.task.labels) if active else submitted_structures(self.datastore())

    def info(self) -> dict[str, Any]:
        """What the server offers, and where the last training stands."""
        info: dict[str, Any] = super().info()
        stats = info["train_stats"][MODEL]
        running = any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train"))
        if stats.get("state") == "running" and not running:  # killed, or the server was started anew
            stats.update(state="interrupted", stage="interrupted", eta=None)
        return info

    def infer(self, request: Mapping[str, Any], datastore: CheckedDatastore | None = None) -> dict[str, Any]:
        """Segment an image of the datastore.

        Args:
            request: ``model``, ``image`` (an id) and the keys of an InferRequest.

        Raises:
            NotServed: another model.
            UnknownImage: no such image.
            FM3DError: see :class:`SegmentationInfer`.
        """
        parameters = {key: value for key, value in request.items() if key not in ("model", "image")}
        task = self._infers.get(request.get("model"))
        if task is None:
            raise NotServed(f"there is no model '{str(request.get('model'))[:64]}'", remedy=f"Use {MODEL}")
        image_id = request.get("image", "")
        file, answer = task(
            {
                "image": (datastore or self.datastore()).image_file(image_id),
                "image_id": image_id,
                "parameters": parse(InferRequest, parameters),
            }
        )
        return {"label": file, "file": file, "tag": "original", "params": answer}

    def accept_training(self, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Judge a request to train, before any process starts.

        Returns:
            The request for the training process, with the cases fixed.

        Raises:
            NotServed: another model.
            FM3DError: see :meth:`SegmentationTrainer.accept`.
        """
        if model not in self._trainers:
            raise NotServed(f"there is no model '{model[:64]}' to train", remedy=f"Use {MODEL}")
        request = parse(TrainRequest, params.get(MODEL, params))
        self.datastore().refresh()
        cases = self._trainers[model].accept(request, self.datastore())
        self._trainers[model].wait_for_process(request.run_id)
        return {"model": model, **request.model_dump(mode="json", exclude_none=True), "cases": list(cases)}

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train; runs in the training process.

        Raises:
            SystemExit: a user's mistake, so that the process's last line is that one line.
        """
        os.nice(5)  # segmenting goes on while a training runs
        wanted = {key: value for key, value in request.items() if key not in _ADDED_ON_THE_WAY}
        try:
            return dict(self._trainers[request.get("model", MODEL)](wanted, self.datastore()))
        except FM3DError as error:
            raise SystemExit(str(error)) from error

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The volume to label next.

        Raises:
            NotServed: an unknown strategy.
        """
        if request.get("strategy") not in self._strategies:
            name = str(request.get("strategy"))[:64]
            raise NotServed(f"there is no strategy '{name}'", remedy=f"Use one of {', '.join(self._strategies)}")
        self.datastore().refresh()
        return dict(super().next_sample(request))
