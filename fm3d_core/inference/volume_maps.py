"""The trained backbone's maps of one volume, computed once, for a head that is adapted to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock

if TYPE_CHECKING:
    import torch

    from fm3d_core.inference.frozen_features import Box
    from fm3d_core.inference.prediction import Prediction
    from fm3d_core.inference.predictor import Predictor

NEAR = 0.01  # probability of a structure from which a voxel may belong to it
NEAR_VOXELS, FAR_VOXELS = 40_000, 10_000  # that sizes are reckoned from


@dataclass(frozen=True)
class MapsOfWindow:
    """One window of a volume.

    Attributes:
        box: where it lies in the prepared image.
        maps: (1, C_i, ...) float16, as the linear head takes them.
        padded: (1, C, X, Y, Z), what the backbone was given.
    """

    box: Box
    maps: list[torch.Tensor]
    padded: torch.Tensor


@dataclass(frozen=True)
class SizeSample:
    """Voxels that sizes are reckoned from: features (n, C), scores (n, classes), the ml that each stands for (n,)."""

    features: torch.Tensor
    scores: torch.Tensor
    ml: torch.Tensor


def maps_of_volume(
    predictor: Predictor, prediction: Prediction, progress: ProgressCallback, should_stop: ShouldStop
) -> list[MapsOfWindow]:
    """The trained backbone's maps over windows side by side, in half precision."""
    import torch

    from fm3d_core.inference.frozen_features import windows_of
    from fm3d_core.models.heads import AdaptedHead

    network, image = predictor.network, prediction.prepared.image
    boxes = list(windows_of((image.shape[1], image.shape[2], image.shape[3]), predictor.card.window))
    clock, windows = StageClock("features of this volume", len(boxes), progress), []
    for done, box in enumerate(boxes):
        if should_stop():
            raise Stopped("The refinement")
        clock.report(done)
        with torch.inference_mode(), autocast(predictor.device):
            padded = network.prepare(image[(slice(None), *box)][None].to(predictor.device))
            maps = network.features(padded, prediction.prepared.spacing)
            if isinstance(network.head, AdaptedHead):
                maps = network.head.adapted(maps)
        windows.append(MapsOfWindow(box, [each.half().cpu() for each in maps], padded.cpu()))
    clock.report(len(boxes))
    return windows


def size_sample(windows: Sequence[MapsOfWindow], prediction: Prediction) -> SizeSample:
    """Voxels near structures densely, the others sparsely; each stands for its share of the volume."""
    import torch

    from fm3d_core.models.voxel_features import features_at

    generator = torch.Generator().manual_seed(0)
    near = 1 - prediction.scores.softmax(0)[0] > NEAR
    total = {True: int(near.sum()), False: int((~near).sum())}
    rates = {True: min(NEAR_VOXELS / max(total[True], 1), 1.0), False: min(FAR_VOXELS / max(total[False], 1), 1.0)}
    x, y, z = prediction.prepared.spacing
    features, scores, ml = [], [], []
    covered = torch.zeros(near.shape, dtype=torch.bool)  # windows at the far end overlap those before
    for window in windows:
        chances = torch.where(near[window.box], rates[True], rates[False]).masked_fill(covered[window.box], 0.0)
        covered[window.box] = True
        taken = torch.rand(chances.shape, generator=generator) < chances
        places = taken.nonzero()
        if not len(places):
            continue
        size = (window.padded.shape[-3], window.padded.shape[-2], window.padded.shape[-1])
        flat = (places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2]
        features.append(features_at(window.maps, flat[None], size)[0])
        scores.append(prediction.scores[(slice(None), *window.box)][:, taken].T)
        ml.append(x * y * z / 1000 / chances[taken])
    return SizeSample(torch.cat(features), torch.cat(scores), torch.cat(ml))
