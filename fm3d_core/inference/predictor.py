"""An adapter made ready: its network built once, then any number of volumes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from fm3d_core.devices import choose_device, has_bfloat16
from fm3d_core.errors import SettingsError
from fm3d_core.inference.islands import remove_islands
from fm3d_core.inference.prediction import (
    Prediction,
    confidence_of,
    normalised_entropy,
    overlap,
    region_entropy,
    sizes_in_ml,
)
from fm3d_core.inference.sliding_window import OVERLAP, number_of_windows, sliding_window_scores
from fm3d_core.inference.variants import VARIANTS
from fm3d_core.inference.views import MOST_VIEWS, views, views_for
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.tasks import JointTask, RegionsTask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from fm3d_core.adaptation import Adapter
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import PreparedVolume, Volume


class Predictor:
    """Segments volumes with an adapter.

    Args:
        adapter: what was learned.
        device: auto, cpu or cuda.
        views: how many turned and stretched copies of a volume are segmented and averaged; None: as many as take
            little time (:func:`fm3d_core.inference.views.views_for`).
        overlap: of neighbouring windows, 0 to below 1 (3DINO tests with 0.75, which takes up to 27 times as long).
        keep_islands: leave small parts of a structure where they are though it was one connected part in every
            labelled volume (:mod:`fm3d_core.inference.islands`).

    Raises:
        AdapterError: the adapter does not fit its backbone.
        WeightsError: the backbone's weight file is missing.
        SettingsError: an impossible number of views or overlap, or an adapter about whole volumes.
    """

    def __init__(
        self,
        adapter: Adapter,
        device: str = "auto",
        *,
        views: int | None = None,
        overlap: float = OVERLAP,
        keep_islands: bool = False,
    ) -> None:
        if adapter.card.task.whole_volume:
            raise SettingsError(
                f"the adapter answers about whole volumes ({adapter.card.task.kind}), it segments nothing",
                remedy="Use fm3d predict, or fm3d_core.inference.ImagePredictor, or choose another adapter",
            )
        if not 0 <= overlap < 1:
            raise SettingsError(f"overlap is {overlap}", remedy="Choose a share from 0 to below 1")
        if views is not None and not 1 <= views <= MOST_VIEWS:
            raise SettingsError(f"views is {views}", remedy=f"Choose a number from 1 to {MOST_VIEWS}")
        self.adapter, self.views, self.overlap = adapter, views, overlap
        self.card = adapter.card
        connected = () if keep_islands else adapter.card.connected
        self._connected = {name: adapter.card.task.values[name] for name in connected}
        self.device = choose_device(device)
        self.network = self._ready(adapter)

    @cached_property
    def first_network(self) -> DenseNetwork | None:
        """The linear head that training began with, on the plain backbone; None where the adapter has none.

        Raises:
            WeightsError: the backbone's weight file is missing.
        """
        first = self.adapter.first_stage()
        return None if first is None else self._ready(first)

    def segment(
        self,
        volume: Volume,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> npt.NDArray[np.uint8]:
        """The label map (X, Y, Z) uint8 on the volume's own RAS grid; ``write_label`` brings it to the file's grid.

        Raises:
            SettingsError: another number of channels than the task is for.
            Stopped: ``should_stop`` said so.
        """
        prepared = self._prepare(volume)
        scores = self._averaged(prepared, progress, should_stop)
        task = self.card.task
        if isinstance(task, RegionsTask):
            return task.painted(_masks(prepared, scores))
        remove_islands(scores, self._connected)
        return prepared.restore_segmentation(scores)

    def segment_regions(
        self,
        volume: Volume,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> npt.NDArray[np.bool_]:
        """Masks (regions, X, Y, Z) of regions that may overlap, on the volume's own RAS grid.

        Raises:
            SettingsError: the task has no such regions.
            Stopped: ``should_stop`` said so.
        """
        if not isinstance(self.card.task, RegionsTask):
            raise SettingsError("the adapter's structures do not overlap", remedy="Use segment")
        prepared = self._prepare(volume)
        return _masks(prepared, self._averaged(prepared, progress, should_stop))

    def classify(
        self,
        volume: Volume,
        *,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Label map and class of a volume by a joint task; the class as ClassificationTask.describe gives it.

        Raises:
            SettingsError: the task is not a joint one.
            Stopped: ``should_stop`` said so.
        """
        from fm3d_core.inference.joint_class import joint_class

        task = self.card.task
        if not isinstance(task, JointTask):
            raise SettingsError("the adapter tells no class of the volume", remedy="Use segment")
        prepared = self._prepare(volume)
        scores = self._averaged(prepared, progress, should_stop)
        remove_islands(scores, self._connected)
        found = joint_class(
            self.network, prepared.image, scores.argmax(0), self.card.window, prepared.spacing, self.device
        )
        return prepared.restore_segmentation(scores), task.classification.describe(found.tolist())

    def predict(
        self,
        volume: Volume,
        *,
        variants: int = 0,
        progress: ProgressCallback = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> Prediction:
        """The label map of :meth:`segment`, with the uncertainty of each voxel and what else is known of it.

        Args:
            volume: to segment.
            variants: 0 to 4 slightly changed images that are segmented as well. The uncertainty is then that of the
                mean of all probabilities, and the prediction's stability is known; each takes as long again.
            progress: receives the stages "segmenting" and "segmenting variant 1 of 2", ...
            should_stop: asked at every window.

        Raises:
            SettingsError: another number of channels than the task is for, or another number of variants.
            Stopped: ``should_stop`` said so.
        """
        if not 0 <= variants <= len(VARIANTS):
            raise SettingsError(f"variants is {variants}", remedy=f"Choose a number from 0 to {len(VARIANTS)}")
        task, prepared = self.card.task, self._prepare(volume)
        scores = self._averaged(prepared, progress, should_stop)
        probabilities = self._probabilities(scores)  # with the islands, so that they are marked as uncertain
        removed = remove_islands(scores, self._connected)
        decided = self._decided(scores)
        rows = task.values if task.exclusive else {name: row for row, name in enumerate(task.labels)}
        confidence = {name: confidence_of(self._mask(decided, row), probabilities[row]) for name, row in rows.items()}
        overlaps: dict[str, list[float]] = {name: [] for name in task.labels}
        for number, variant in enumerate(VARIANTS[:variants], start=1):
            watched = _renamed(progress, f"segmenting variant {number} of {variants}")
            changed = variant.undo(self._scores(variant.change(prepared.image), prepared, watched, should_stop))
            probabilities += self._probabilities(changed)
            remove_islands(changed, self._connected)
            again = self._decided(changed)
            for name, row in rows.items():
                overlaps[name].append(overlap(self._mask(decided, row), self._mask(again, row)))
        entropy = normalised_entropy if task.exclusive else region_entropy
        uncertainty = prepared.restore_map(entropy(probabilities.div_(1 + variants)))
        voxel_ml = math.prod(volume.spacing) / 1000
        regions: dict[str, npt.NDArray[np.bool_]] = {}
        if isinstance(task, RegionsTask):
            found = _masks(prepared, scores)
            labels, regions = task.painted(found), dict(zip(task.labels, found, strict=True))
            sizes = {name: float(mask.sum()) * voxel_ml for name, mask in regions.items()}
        else:
            labels = prepared.restore_segmentation(scores)
            sizes = sizes_in_ml(labels, voxel_ml, task.values)
        return Prediction(
            labels,
            uncertainty,
            sizes,
            confidence,
            scores,
            prepared,
            voxel_ml,
            {name: _mean(values) for name, values in overlaps.items()} if variants else {},
            regions,
            {name: count * math.prod(prepared.spacing) / 1000 for name, count in removed.items()},
        )

    def _probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.softmax(0) if self.card.task.exclusive else scores.sigmoid()

    def _decided(self, scores: torch.Tensor) -> torch.Tensor:
        """The class of each voxel (X, Y, Z); of regions, whether it is in each (regions, X, Y, Z)."""
        return scores.argmax(0) if self.card.task.exclusive else scores > 0

    def _mask(self, decided: torch.Tensor, row: int) -> torch.Tensor:
        """Where the structure of a row of the scores is."""
        return decided == row if self.card.task.exclusive else decided[row]

    def _ready(self, adapter: Adapter) -> DenseNetwork:
        network = adapter.build_network().to(self.device)
        if network.backbone.kind == "tokens" and has_bfloat16(self.device):
            from fm3d_core.models.half_precision import for_inference

            network = for_inference(network, network.backbone)
        return network

    def _prepare(self, volume: Volume) -> PreparedVolume:
        preprocessing = self.card.task.preprocessing
        assert preprocessing is not None  # an adapter's task always has one
        prepared = preprocessing.prepare(volume)
        self.card.task.check_channels(len(prepared.image))
        return prepared

    def _averaged(self, prepared: PreparedVolume, progress: ProgressCallback, should_stop: ShouldStop) -> torch.Tensor:
        """Scores of the volume; of several views the logarithm of their mean probabilities."""
        import torch

        windows = number_of_windows(prepared.image.shape[-3:], self.card.window, self.overlap)
        count = self.views or views_for(windows, self.network.backbone)
        if count == 1:
            return self._scores(prepared.image, prepared, progress, should_stop)
        clock = StageClock("segmenting", windows * count, progress)
        total = torch.zeros(self.card.task.classes, *prepared.image.shape[-3:])
        seen = torch.zeros_like(total[:1])
        for number, view in enumerate(views(count)):
            watched = partial(_report_part, clock, number * windows)
            scores = self._scores(view.change(prepared.image), prepared, watched, should_stop)
            probabilities, weight = view.undo(self._probabilities(scores))
            total += probabilities
            seen += weight
        mean = (total / seen).clamp_(min=1e-6)
        return mean.log_() if self.card.task.exclusive else mean.clamp_(max=1 - 1e-6).logit_()

    def _scores(
        self, image: torch.Tensor, prepared: PreparedVolume, progress: ProgressCallback, should_stop: ShouldStop
    ) -> torch.Tensor:
        return sliding_window_scores(
            self.network,
            image,
            self.card.window,
            self.device,
            progress=progress,
            should_stop=should_stop,
            overlap=self.overlap,
            spacing=prepared.spacing,
        )


def _masks(prepared: PreparedVolume, scores: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Where each region is more likely than not (regions, X, Y, Z), on the volume's grid."""
    import numpy as np

    return np.stack([prepared.restore_map(each, outside=-1.0) > 0 for each in scores])


def _report_part(clock: StageClock, before: int, event: Progress) -> None:
    """An event of one view as one of all."""
    clock.report(before + event.step)


def _renamed(progress: ProgressCallback, stage: str) -> ProgressCallback:
    def report(event: Progress) -> None:
        progress(replace(event, stage=stage))

    return report


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
