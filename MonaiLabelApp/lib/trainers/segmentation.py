"""Learning structures from the submitted labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.tasks.train import TrainTask

from fm3d_core.errors import FM3DError
from MonaiLabelApp.lib.cases import chosen_cases, labelled_cases
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict
from MonaiLabelApp.lib.labels import structures_to_learn, submitted_structures
from MonaiLabelApp.lib.progress_file import ProgressFile, read_progress
from MonaiLabelApp.lib.requests import TrainRequest, parse

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore

OFFERED = ("full", "lora", "linear_probe", "spatial_adapter")  # in the panel; a request may name any of fm3d methods


class SegmentationTrainer(TrainTask):  # type: ignore[misc]
    """Finetunes on the submitted labels and makes the result the active adapter.

    Args:
        store: where the adapter goes.
        progress: the file that tells the server where the training stands.
        configured: the structures the server was started with, may be empty.
    """

    def __init__(self, store: AdapterStore, progress: Path, configured: Sequence[str]) -> None:
        super().__init__("Learns structures from the submitted labels")
        self._store, self._progress, self._configured = store, progress, tuple(configured)

    def config(self) -> dict[str, Any]:
        """The choices in a client's table."""
        from fm3d_core.adaptation import FinetuneSettings

        return {"method": list(OFFERED), "seconds": FinetuneSettings().seconds}

    def stats(self) -> dict[str, Any]:
        """Where the last training stands, as its process wrote it."""
        return read_progress(self._progress)

    def accept(self, request: TrainRequest, datastore: CheckedDatastore) -> tuple[str, ...]:
        """Judge a request before any process starts.

        Returns:
            The ids of the cases to learn from: later submissions do not change a training that runs.

        Raises:
            SettingsError: impossible settings.
            UnknownImage: a case that is not on the server.
            Conflict: no or too few labelled volumes, or no structure is known.
        """
        from fm3d_core.adaptation import FinetuneSettings
        from fm3d_core.tasks import SegmentationTask

        FinetuneSettings(**request.finetune_settings())
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
        return cases[: request.shots]

    def wait_for_process(self, run_id: str) -> None:
        """Say that a run is accepted, so that nobody sees the figures of the run before."""
        ProgressFile(self._progress, run_id).waiting()

    def __call__(self, request: Mapping[str, Any], datastore: CheckedDatastore) -> dict[str, Any]:
        """Train, in a process of its own.

        Args:
            request: the keys of a TrainRequest.

        Returns:
            The version of the new adapter, its cases, and why others were left out.

        Raises:
            FM3DError: a mistake in request, labels or images; it is in the progress too.
        """
        wanted = parse(TrainRequest, request)
        progress = ProgressFile(self._progress, wanted.run_id)
        try:
            return self._train(wanted, datastore, progress)
        except FM3DError as error:
            progress.failed(str(error))
            raise
        except BaseException:
            progress.failed("The training failed unexpectedly. The server's log says more.")
            raise

    def _train(self, request: TrainRequest, datastore: CheckedDatastore, progress: ProgressFile) -> dict[str, Any]:
        from fm3d_core.adaptation import FinetuneSettings, finetune
        from fm3d_core.tasks import SegmentationTask

        ids = self.accept(request, datastore)
        task = SegmentationTask(self._structures(request, datastore))
        cases, left_out = labelled_cases(ids, datastore)
        settings = FinetuneSettings(**request.finetune_settings())

        def keep_stage(adapter: Adapter) -> None:
            # a linear head is better than nothing, but not than what a whole training has given before
            progress.version_there(self._store.save(adapter, activate=self._store.active() is None).version)

        adapter = finetune(cases, task, settings, progress=progress, on_stage=keep_stage)
        stored = self._store.save(adapter)
        left_out += adapter.card.left_out
        progress.done(stored.version, left_out)
        return {
            "version": stored.version,
            "cases": [case.name for case in adapter.card.cases],
            "left_out": left_out,
            "training": adapter.card.training,
        }

    def _structures(self, request: TrainRequest, datastore: CheckedDatastore) -> tuple[str, ...]:
        active = self._store.active()
        known = active.card.task.labels if active else ()
        return structures_to_learn(request.labels, self._configured, known, submitted_structures(datastore))
