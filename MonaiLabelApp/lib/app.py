"""The app: it wires datastore, inference and training to MONAI Label and checks what comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings as monai_label_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.strategy import Strategy

from fm3d_core import __version__
from fm3d_core.adaptation import AdapterStore, LabeledCase
from fm3d_core.errors import SettingsError
from fm3d_core.progress import ShouldStop, never_stop
from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.background import SCORING, Background
from MonaiLabelApp.lib.cases import labelled_cases
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.dicom_datastore import open_archive
from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.infers.base import Asked, ServedInfer, Tools
from MonaiLabelApp.lib.infers.insight import InsightInfer
from MonaiLabelApp.lib.infers.interactive import InteractiveInfer
from MonaiLabelApp.lib.infers.result import Result
from MonaiLabelApp.lib.infers.segmentation import SegmentationInfer
from MonaiLabelApp.lib.infers.whole_volume import WholeVolumeInfer
from MonaiLabelApp.lib.jobs import Jobs
from MonaiLabelApp.lib.labels import submitted_structures
from MonaiLabelApp.lib.lanes import Lanes
from MonaiLabelApp.lib.one_server import hold
from MonaiLabelApp.lib.predictors import Predictors
from MonaiLabelApp.lib.quality import CaseJudge
from MonaiLabelApp.lib.requests import SampleRequest, TrainRequest, parse
from MonaiLabelApp.lib.scoring import ImageScoring
from MonaiLabelApp.lib.settings import ServerSettings
from MonaiLabelApp.lib.strategies import all_strategies
from MonaiLabelApp.lib.trainers.segmentation import SegmentationTrainer, waits
from MonaiLabelApp.lib.training.queue import TrainingQueue, as_task
from MonaiLabelApp.lib.training.record import Training, Work
from MonaiLabelApp.lib.volumes import ImageCache

MODEL = "segmentation"


class FM3DApp(MONAILabelApp):  # type: ignore[misc]
    """FM3D in a MONAI Label server.

    Args:
        app_dir: the folder with main.py; MONAI Label writes its logs into it.
        studies: the folder of images.
        conf: see :meth:`ServerSettings.read`.

    Attributes:
        settings: what the server was started with.
        adapters: the versions of what was learned.
        lanes: where blocking work runs.
        trainings: their queue.
        jobs: work of minutes.
        background: starts those.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        model_folder = Path(app_dir) / "model"
        self.settings = ServerSettings.read(conf)
        self.adapters = Adapters(AdapterStore(self.settings.adapters or model_folder / "adapters"))
        self.lanes = Lanes()
        self.jobs = Jobs(self.lanes.background)
        self.tools = Tools(
            Predictors(self.adapters, self.structures),
            ImageCache(),
            self.structures,
            CaseJudge(self.lanes.background, self._still_here),
        )
        self._scoring = ImageScoring(
            self.tools.predictors, model_folder / "vectors", lambda: self.trainings.running() is not None
        )
        self.background = Background(self.jobs, self.lanes, self.adapters, self._scoring, self.datastore)
        self.trainings = TrainingQueue(model_folder / "trainings", self._work_of, self.background.training_ended)
        self._held: list[Any] = []
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="FM3D",
            description="3D foundation models a clinician can teach. Research use only.",
            version=__version__,
        )

    def init_datastore(self) -> CheckedDatastore:
        """The study folder, or the DICOMweb archive."""
        if self.studies.startswith(("http://", "https://")):
            return open_archive(self.studies, Path(self.app_dir) / "dicom", self.conf.get("modalities", ""))
        return CheckedDatastore(self.studies)

    def init_infers(self) -> dict[str, ServedInfer]:
        """The models by name."""
        return {
            MODEL: SegmentationInfer(self.tools, self.adapters),
            "interactive": InteractiveInfer(self.tools),
            "insight": InsightInfer(self.tools),
            "whole_volume": WholeVolumeInfer(self.tools, self.adapters),
        }

    def init_trainers(self) -> dict[str, SegmentationTrainer]:
        """Its training."""
        return {MODEL: SegmentationTrainer(self.adapters, self.settings, self.trainings)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Which volume is labelled next."""
        return all_strategies(self._scoring)

    def init_scoring_methods(self) -> dict[str, ImageScoring]:
        """What is known of the images that wait."""
        return {SCORING: self._scoring}

    def init_batch_infer(self) -> None:
        """Not served."""

    def on_init_complete(self) -> None:
        """Called in the server, not in a training: look for images, and put our front before the endpoints.

        MONAI Label's own version starts jobs for sessions and scoring, which are not served.

        Raises:
            SettingsError: MONAI Label's own login is asked for.
            ServerError: another server works in the same folders.
        """
        from monailabel.app import app as server

        from MonaiLabelApp.lib.web.front import install

        if monai_label_settings.MONAI_LABEL_AUTH_ENABLE:
            raise SettingsError("MONAI_LABEL_AUTH_ENABLE is not served", remedy="Use fm3d serve --token-file FILE")
        hold(Path(self.app_dir) / "model", self._held)
        hold(self.datastore().folder, self._held)
        self.datastore().recover()
        self.trainings.open()
        install(server, self)

    def structures(self) -> tuple[str, ...]:
        """The structures a client sees, in the order of their voxel values 1 to N."""
        if self.settings.labels:
            return self.settings.labels
        active = self.adapters.active()
        segments = active is not None and not active.card.task.whole_volume
        return tuple(active.card.task.labels) if active and segments else submitted_structures(self.datastore())

    def info(self) -> dict[str, Any]:
        """What the server offers, and where the last training stands."""
        return dict(super().info())

    def infer_task(self, model: object) -> ServedInfer:
        """A model by its name.

        Raises:
            NotServed: there is none.
        """
        task = self._infers.get(model)
        if task is None:
            raise NotServed(f"there is no model '{str(model)[:64]}'", remedy=f"Use {' or '.join(self._infers)}")
        return task

    def run_inference(
        self,
        model: str,
        image_id: str,
        parameters: Mapping[str, Any],
        *,
        label: Path | None = None,
        should_stop: ShouldStop = never_stop,
    ) -> Result:
        """Run a model on an image of the datastore.

        Args:
            model: its name.
            image_id: of an image; never a path.
            parameters: what the client sent, not yet checked.
            label: a file that came with it.
            should_stop: whether the client is gone.

        Raises:
            NotServed: there is no such model.
            UnknownImage: there is no such image.
            SettingsError: unknown or impossible parameters.
            FM3DError: see the model's ``answer``.
        """
        task = self.infer_task(model)
        if label is not None and not task.takes_label:
            raise SettingsError(f"{model} takes no label", remedy="Leave it out")
        path = self.datastore().image_file(image_id)
        wanted = parse(task.request, parameters)
        return task.answer(Asked(self.tools.images.read(image_id, path), wanted, label, should_stop))

    def infer(self, request: Mapping[str, Any], datastore: CheckedDatastore | None = None) -> dict[str, Any]:
        """MONAI Label's own form of :meth:`run_inference`."""
        parameters = {key: value for key, value in request.items() if key not in ("model", "image")}
        result = self.run_inference(request.get("model", ""), request.get("image", ""), parameters)
        file = str(result.file) if result.file else None
        return {"label": file, "file": file, "tag": "original", "params": result.params}

    def start_training(self, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a training.

        Returns:
            The task, as MONAI Label's clients know it, with its place in the queue in words.

        Raises:
            NotServed: another model.
            FM3DError: see :meth:`SegmentationTrainer.accept`.
        """
        if model not in self._trainers:
            raise NotServed(f"there is no model '{model[:64]}' to train", remedy=f"Use {MODEL}")
        trainer: SegmentationTrainer = self._trainers[model]
        request = parse(TrainRequest, params.get(MODEL, params))
        self.datastore().refresh()
        return self._queued(self.trainings.add(trainer.accept(model, request, self.datastore())))

    def train_again(self, training_id: str) -> dict[str, Any]:
        """Queue a training once more that did not come to its end, and give it as :meth:`start_training` does.

        Raises:
            NotServed: there is no such training.
            Conflict: it waits, runs or came to its end.
        """
        return self._queued(self.trainings.again(training_id))

    def _queued(self, training: Training) -> dict[str, Any]:
        waiting = [each.request.id for each in self.trainings.waiting()]
        place = waiting.index(training.request.id) + 1 if training.request.id in waiting else 0  # begun already
        return {**as_task(training), "queue_position": place, "message": waits(place, self.trainings)}

    def training_stats(self, training: Training) -> dict[str, Any]:
        """Where one training stands, as ``train_stats`` of /info/ has it of the current one."""
        trainer: SegmentationTrainer = self._trainers[training.request.model]
        return trainer.stats_of(training)

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """MONAI Label's own call.

        Raises:
            NotServed: see :meth:`SegmentationTrainer.__call__`.
        """
        return dict(self._trainers[MODEL](request, self.datastore()))

    def _still_here(self, ids: Sequence[str]) -> list[LabeledCase]:
        """Those of the cases that still have an image and a label; none if none can be used."""
        labelled = set(self.datastore().get_labeled_images())
        here = [case for case in ids if case in labelled]
        return labelled_cases(here, self.datastore())[0] if here else []

    def _work_of(self, training: Training) -> Work:
        trainer: SegmentationTrainer = self._trainers[training.request.model]
        return trainer.prepare(training, self.datastore())

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Called after a label was kept; what it returns is added to the answer."""
        return {}

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The volume to label next.

        Raises:
            NotServed: an unknown strategy.
        """
        if request.get("strategy") not in self._strategies:
            name = str(request.get("strategy"))[:64]
            raise NotServed(f"there is no strategy '{name}'", remedy=f"Use one of {', '.join(self._strategies)}")
        wanted = parse(SampleRequest, {key: value for key, value in request.items() if key != "strategy"})
        self.datastore().refresh()
        return dict(super().next_sample({"strategy": request["strategy"], **wanted.model_dump()}))
