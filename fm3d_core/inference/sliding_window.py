"""The one sliding window: scores for a volume of any size, with progress and cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork

OVERLAP = 0.25  # FSEFT evaluates with 0.25, 3DINO tests with 0.75; finer overlap costs up to (1 / (1 - overlap))^3


def sliding_window_scores(
    network: DenseNetwork,
    image: torch.Tensor,
    window: Size,
    device: torch.device,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
    overlap: float = OVERLAP,
    spacing: tuple[float, float, float] | None = None,
) -> torch.Tensor:
    """Scores (classes, X, Y, Z) of ``image`` (C, X, Y, Z), windows blended with Gaussian weights.

    Along an axis shorter than the window the volume is taken whole, padded only to the backbone's multiple.
    ``spacing`` is the image's mm per voxel, for backbones that need it.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    import torch
    from monai.inferers import sliding_window_inference

    size = image.shape[-3:]
    roi = tuple(min(edge, length) for edge, length in zip(window, size, strict=True))
    clock = StageClock("segmenting", number_of_windows(size, window, overlap), progress)
    done = 0

    def predict(windows: torch.Tensor, *_: Any) -> torch.Tensor:
        nonlocal done
        if should_stop():
            raise Stopped("Segmentation")
        clock.report(done)
        with autocast(device):
            scores = network(windows, spacing=spacing)
        if isinstance(scores, tuple):  # of a joint task, with those of the whole window
            scores = scores[0]
        done += len(windows)
        return scores.float()

    with torch.inference_mode():
        scores = sliding_window_inference(
            image[None].to(device), roi, 1, predict, overlap=overlap, mode="gaussian", device=torch.device("cpu")
        )
    clock.report(clock.total)
    return scores[0]


def number_of_windows(size: Sequence[int], window: Size, overlap: float = OVERLAP) -> int:
    """How many windows cover a volume of ``size`` voxels."""
    from monai.data.utils import dense_patch_slices

    roi = tuple(min(edge, length) for edge, length in zip(window, size, strict=True))
    steps = tuple(max(int(edge * (1 - overlap)), 1) for edge in roi)
    return len(dense_patch_slices(tuple(size), roi, steps))
