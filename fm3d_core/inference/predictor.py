"""An adapter made ready: its network built once, then any number of volumes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from fm3d_core.devices import choose_device, has_bfloat16
from fm3d_core.errors import SettingsError
from fm3d_core.inference.prediction import Prediction, confidence_of, normalised_entropy, overlap, sizes_in_ml
from fm3d_core.inference.sliding_window import number_of_windows, sliding_window_scores
from fm3d_core.inference.variants import VARIANTS
from fm3d_core.inference.views import MOST_VIEWS, views, views_for
from fm3d_core.progress import Progress, ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

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

    Raises:
        AdapterError: the adapter does not fit its backbone.
        WeightsError: the backbone's weight file is missing.
        SettingsError: an impossible number of views.
    """

    def __init__(self, adapter: Adapter, device: str = "auto", *, views: int | None = None) -> None:
        if views is not None and not 1 <= views <= MOST_VIEWS:
            raise SettingsError(f"views is {views}", remedy=f"Choose a number from 1 to {MOST_VIEWS}")
        self.adapter, self.views = adapter, views
        self.card = adapter.card
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
            SettingsError: the task is for images of several channels.
            Stopped: ``should_stop`` said so.
        """
        prepared = self._prepare(volume)
        return prepared.restore_segmentation(self._averaged(prepared, progress, should_stop))

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
            SettingsError: the task is for images of several channels, or another number of variants.
            Stopped: ``should_stop`` said so.
        """
        if not 0 <= variants <= len(VARIANTS):
            raise SettingsError(f"variants is {variants}", remedy=f"Choose a number from 0 to {len(VARIANTS)}")
        prepared = self._prepare(volume)
        scores = self._averaged(prepared, progress, should_stop)
        probabilities, classes = scores.softmax(0), scores.argmax(0)
        overlaps: dict[str, list[float]] = {name: [] for name in self.card.task.labels}
        for number, variant in enumerate(VARIANTS[:variants], start=1):
            watched = _renamed(progress, f"segmenting variant {number} of {variants}")
            changed = variant.undo(self._scores(variant.change(prepared.image), prepared, watched, should_stop))
            probabilities += changed.softmax(0)
            for name, value in self.card.task.values.items():
                overlaps[name].append(overlap(classes, changed.argmax(0), value))
        labels = prepared.restore_segmentation(scores)
        uncertainty = prepared.restore_map(normalised_entropy(probabilities.div_(1 + variants)))
        voxel_ml = math.prod(volume.spacing) / 1000
        return Prediction(
            labels,
            uncertainty,
            sizes_in_ml(labels, voxel_ml, self.card.task.values),
            confidence_of(scores, self.card.task.values),
            scores,
            prepared,
            voxel_ml,
            {name: _mean(values) for name, values in overlaps.items()} if variants else {},
        )

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

        windows = number_of_windows(prepared.image.shape[-3:], self.card.window)
        count = self.views or views_for(windows, self.network.backbone)
        if count == 1:
            return self._scores(prepared.image, prepared, progress, should_stop)
        clock = StageClock("segmenting", windows * count, progress)
        total = torch.zeros(self.card.task.classes, *prepared.image.shape[-3:])
        seen = torch.zeros_like(total[:1])
        for number, view in enumerate(views(count)):
            watched = partial(_report_part, clock, number * windows)
            scores = self._scores(view.change(prepared.image), prepared, watched, should_stop)
            probabilities, weight = view.undo(scores.softmax(0))
            total += probabilities
            seen += weight
        return (total / seen).clamp_(min=1e-6).log_()

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
            spacing=prepared.spacing,
        )


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
