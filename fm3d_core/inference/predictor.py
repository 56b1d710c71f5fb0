"""An adapter made ready: its network built once, then any number of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.devices import choose_device, has_bfloat16
from fm3d_core.inference.sliding_window import sliding_window_scores
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fm3d_core.adaptation import Adapter
    from fm3d_core.volumes import Volume


class Predictor:
    """Segments volumes with an adapter.

    Args:
        adapter: what was learned.
        device: auto, cpu or cuda.

    Raises:
        AdapterError: the adapter does not fit its backbone.
        WeightsError: the backbone's weight file is missing.
    """

    def __init__(self, adapter: Adapter, device: str = "auto") -> None:
        self.card = adapter.card
        self.device = choose_device(device)
        self.network = adapter.build_network().to(self.device)
        if self.network.backbone.kind == "tokens" and has_bfloat16(self.device):
            from fm3d_core.models.half_precision import for_inference

            self.network = for_inference(self.network, self.network.backbone)

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
        preprocessing = self.card.task.preprocessing
        assert preprocessing is not None  # an adapter's task always has one
        prepared = preprocessing.prepare(volume)
        self.card.task.check_channels(len(prepared.image))
        scores = sliding_window_scores(
            self.network,
            prepared.image,
            self.card.window,
            self.device,
            progress=progress,
            should_stop=should_stop,
            spacing=prepared.spacing,
        )
        return prepared.restore_segmentation(scores)
