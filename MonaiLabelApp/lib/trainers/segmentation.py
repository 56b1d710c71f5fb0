"""Learning structures from the submitted labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.adapters import Adapters
from MonaiLabelApp.lib.cases import chosen_cases
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict, NotServed
from MonaiLabelApp.lib.labels import FINAL, structures_to_learn, submitted_structures
from MonaiLabelApp.lib.recipes.offered import offered
from MonaiLabelApp.lib.recipes.settings import OWN, WEIGHTS
from MonaiLabelApp.lib.requests import TrainRequest
from MonaiLabelApp.lib.settings import ServerSettings
from MonaiLabelApp.lib.trainers.recipe import accept_recipe, prepare_recipe
from MonaiLabelApp.lib.training.memory import default_bound
from MonaiLabelApp.lib.training.queue import TrainingQueue
from MonaiLabelApp.lib.training.record import ENDED, Training, TrainingRequest, Work, keep_copy

PRESETS = ("auto", "fast", "balanced", "thorough", "none")
OFFERED = ("full", "lora", "linear_probe", "spatial_adapter")  # in the panel; a request may name any of fm3d methods
_NOTHING = {"stage": "", "step": 0, "total": 0, "epoch": 0, "total_epochs": 0, "elapsed": 0.0, "eta": None}
_NOTHING |= {"loss": None, "dice": None, "metrics": {}, "curve": [], "versions": [], "left_out": []}


class SegmentationTrainer(TrainTask):  # type: ignore[misc]
    """Judges requests to train, prepares each training's work, and tells where it stands.

    Args:
        adapters: where the versions go.
        settings: structures the server was started with, and the memory of a training.
        queue: of the trainings.
    """

    def __init__(self, adapters: Adapters, settings: ServerSettings, queue: TrainingQueue) -> None:
        super().__init__("Learns structures from the submitted labels")
        self._adapters, self._settings, self._queue = adapters, settings, queue

    def config(self) -> dict[str, Any]:
        """The choices in a client's table."""
        from fm3d_core.adaptation import FinetuneSettings

        return {
            "preset": list(PRESETS),
            "method": list(OFFERED),
            "seconds": FinetuneSettings().seconds,
            "recipe": ["none", *offered()],
            "weights": list(WEIGHTS),
        }

    def stats(self) -> dict[str, Any]:
        """Where the training stands that runs; if none does, the next or else the last one. {}: there was none."""
        training = self._queue.current()
        return {} if training is None else self.stats_of(training)

    def stats_of(self, training: Training) -> dict[str, Any]:
        """Where a training stands: what its process wrote, and what the server knows better."""
        waiting = self._queue.waiting()
        position = next((place for place, each in enumerate(waiting, 1) if each.request.id == training.request.id), 0)
        stats = {**_NOTHING, "stage": "starting", **training.progress, **self._said(training, position)}
        stats["queue"] = [
            {"id": each.request.id, "run_id": each.request.run_id, "position": place, "labels": each.request.structures}
            for place, each in enumerate(waiting, start=1)
        ]
        return stats

    def accept(self, model: str, request: TrainRequest, datastore: CheckedDatastore) -> TrainingRequest:
        """Judge a request before anything starts, and fix what it will learn from.

        Raises:
            SettingsError: impossible settings.
            NotServed: there is no such recipe.
            UnknownImage: a case that is not on the server.
            Conflict: no or too few labelled volumes, or no structure is known.
        """
        from fm3d_core.adaptation import FinetuneSettings
        from fm3d_core.tasks import SegmentationTask

        if request.by_recipe is not None:
            return accept_recipe(model, request, datastore)
        if request.epochs is not None or request.weights not in (None, OWN):
            raise SettingsError("epochs and weights go with a recipe", remedy="Leave them out, or say recipe too")
        settings = request.finetune_settings()
        FinetuneSettings(**settings)
        cases = chosen_cases(datastore, request.cases)
        if request.shots is not None and len(cases) < request.shots:
            raise Conflict(
                f"{request.shots} labelled volumes were asked for, but there are {len(cases)}",
                remedy="Submit more labels or ask for fewer",
            )
        structures = self._structures(request, datastore)
        if not structures:
            raise Conflict("no structure has a name", remedy="Submit labels with label_info, or start with labels")
        SegmentationTask(structures)
        return TrainingRequest.new(model, structures, cases[: request.shots], settings, request.run_id)

    def prepare(self, training: Training, datastore: CheckedDatastore) -> Work:
        """The files a training learns from, as they are now; later submissions do not change it."""
        request = training.request
        if request.recipe:
            return self._work(request, *prepare_recipe(training, datastore))
        entries: list[Mapping[str, Any]] = []
        left_out = []
        for case in request.cases:
            try:
                image, label = datastore.image_file(case), datastore.label_file(case)
            except FM3DError as error:
                left_out.append(f"{case}: {error.problem}. It was removed meanwhile.")
                continue
            copy = keep_copy(label, training.folder / "labels" / label.name)
            info = datastore.get_label_info(case, FINAL)
            entries.append({"name": case, "image": str(image), "label": str(copy), "info": info})
        return self._work(request, entries, left_out)

    def _work(self, request: TrainingRequest, entries: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> Work:
        return Work(
            run_id=request.run_id,
            structures=request.structures,
            settings=request.settings,
            cases=tuple(entries),
            left_out=tuple(left_out),
            store=str(self._adapters.store.root),
            memory=self._settings.training_bytes or default_bound(),
            recipe=request.recipe,
        )

    def __call__(self, request: Mapping[str, Any], datastore: CheckedDatastore) -> dict[str, Any]:
        """MONAI Label's own call, inside the server's process.

        Raises:
            NotServed: always; a training has a process and a place in the queue.
        """
        raise NotServed("trainings run in a queue", remedy="POST /train/segmentation to the server")

    def _said(self, training: Training, position: int) -> dict[str, Any]:
        """What the server knows better than the process."""
        state, request = training.state, training.request
        said: dict[str, Any] = {"id": request.id, "run_id": request.run_id, "state": state.state}
        said |= {"position": position, "message": state.message, "labels": list(request.structures)}
        said |= {"recipe": request.recipe or None}
        if state.state == "waiting":
            said |= {"stage": "waiting", "message": waits(position, self._queue)}
        if state.state in ENDED:
            said |= {"stage": state.state, "eta": 0.0 if state.state == "done" else None}
        return said

    def _structures(self, request: TrainRequest, datastore: CheckedDatastore) -> tuple[str, ...]:
        active = self._adapters.active()
        known: Sequence[str] = active.card.task.labels if active else ()
        return structures_to_learn(request.labels, self._settings.labels, known, submitted_structures(datastore))


def waits(position: int, queue: TrainingQueue) -> str:
    """How many trainings come before one that waits at ``position``, in words."""
    before = position - 1 + (queue.running() is not None)
    if not position or before == 0:
        return "It begins now."
    return f"It waits for {before} other training{'s' * (before > 1)}."
