"""Looking into a network: its features as colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.inference.frozen_features import windows_of
from fm3d_core.inference.sliding_window import sliding_window_scores
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.inference.predictor import Predictor
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import PreparedVolume, Volume

COARSE = 4  # voxels of the prepared image per sample of a pyramid's features
SAMPLES = 20_000  # feature vectors that the components are found from
TAILS = (1.0, 99.0)  # percentiles of a component that become 0 and 255
EMPTY = -0.95  # of the prepared image: darker is background, and stays black
FEWEST = 10  # feature vectors that components are found from; with fewer, those of the background count too
Background = Literal["empty", "first_component"]


def feature_colours(
    predictor: Predictor,
    volume: Volume,
    *,
    background: Background = "empty",
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> npt.NDArray[np.uint8]:
    """The first three principal components of the backbone's features as red, green and blue.

    What has like colours looks alike to the network (as in Oquab et al. 2023, DINOv2, figure 1). Of a transformer the
    last layer is taken, of a pyramid all maps, each channel scaled to unit deviation. The backbone is that of the
    adapter, as far as it was trained.

    Args:
        predictor: of an adapter.
        volume: to look at.
        background: what stays black: where the image is empty, or, as DINOv2 has it, what the first component of all
            features tells from the rest (Otsu's threshold; the darker side); the colours are then components of the
            other features.
        progress: receives the stages "computing features" and "segmenting".
        should_stop: asked at every window.

    Returns:
        (X, Y, Z, 3) uint8 on the volume's RAS grid.

    Raises:
        SettingsError: the task is for images of several channels.
        Stopped: ``should_stop`` said so.
    """
    import torch

    prepared = prepared_for(predictor, volume)
    filled = (prepared.image > EMPTY).any(dim=0)
    sampled = _sampled(predictor, prepared, filled, progress, should_stop)
    if background == "first_component":
        first, threshold, vectors = _foreground(sampled)
        mean, components = _components(vectors)
        projection = _Projection(predictor.network, mean, torch.cat([first, components], dim=1))
        masking, *shown = slid(projection, predictor, prepared, progress, should_stop)
        filled = masking > threshold - float(mean @ first)
    else:
        of_image = sampled.vectors[sampled.filled]
        vectors = of_image if len(of_image) >= FEWEST else sampled.vectors
        shown = list(
            slid(_Projection(predictor.network, *_components(vectors)), predictor, prepared, progress, should_stop)
        )
    colours = []
    for component in shown:
        inside = component[filled] if bool(filled.any()) else component.flatten()
        low, high = np.percentile(inside.numpy(), TAILS)
        scaled = ((component - low) / max(high - low, 1e-6)).clamp(0, 1)
        colours.append(prepared.restore_map(torch.where(filled, scaled * 255, 0.0)))
    return np.stack(colours, axis=-1).round().astype(np.uint8)


@dataclass(frozen=True)
class _Sampled:
    """Feature vectors from all over a volume.

    Attributes:
        vectors: (n, C).
        filled: (n,) bool, whether the image is not empty there.
        brightness: (n,) of the image there.
    """

    vectors: torch.Tensor
    filled: torch.Tensor
    brightness: torch.Tensor


class _Projection:
    """A network whose scores are components of its features."""

    def __init__(self, network: DenseNetwork, mean: torch.Tensor, components: torch.Tensor) -> None:
        self._network, self._mean, self._components = network, mean, components

    def __call__(self, windows: torch.Tensor, spacing: Any = None) -> torch.Tensor:
        import torch

        padded = self._network.prepare(windows)
        features = _joined(self._network, padded, spacing)
        centred = features - self._mean.to(features)[:, None, None, None]
        found = torch.einsum("bcxyz,ck->bkxyz", centred, self._components.to(features))
        return at_size(found, padded.shape[-3:], windows.shape[-3:])


def prepared_for(predictor: Predictor, volume: Volume) -> PreparedVolume:
    preprocessing = predictor.card.task.preprocessing
    assert preprocessing is not None  # an adapter's task always has one
    prepared = preprocessing.prepare(volume)
    predictor.card.task.check_channels(len(prepared.image))
    return prepared


def slid(
    scorer: Any, predictor: Predictor, prepared: PreparedVolume, progress: ProgressCallback, should_stop: ShouldStop
) -> torch.Tensor:
    """(K, X', Y', Z') of a scorer, by the one sliding window."""
    return sliding_window_scores(
        scorer,
        prepared.image,
        predictor.card.window,
        predictor.device,
        progress=progress,
        should_stop=should_stop,
        spacing=prepared.spacing,
    )


def _sampled(
    predictor: Predictor,
    prepared: PreparedVolume,
    filled: torch.Tensor,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> _Sampled:
    """Feature vectors of every window, as many of what is filled as of all."""
    import torch
    from torch.nn.functional import adaptive_avg_pool3d, adaptive_max_pool3d

    x, y, z = prepared.image.shape[-3:]
    boxes = list(windows_of((x, y, z), predictor.card.window))
    generator = torch.Generator().manual_seed(0)
    clock = StageClock("computing features", len(boxes), progress)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for done, box in enumerate(boxes):
        if should_stop():
            raise Stopped("The look at the features")
        clock.report(done)
        with torch.inference_mode(), autocast(predictor.device):
            padded = predictor.network.prepare(prepared.image[(slice(None), *box)][None].to(predictor.device))
            features = _joined(predictor.network, padded, prepared.spacing)[0].float().cpu()
        vectors, (gx, gy, gz) = features.flatten(1).T, features.shape[-3:]
        shown = (
            adaptive_max_pool3d(_padded_to(filled[box].float(), padded.shape[-3:])[None, None], (gx, gy, gz)).flatten()
            > 0
        )
        brightness = adaptive_avg_pool3d(padded.float().mean(dim=1, keepdim=True), (gx, gy, gz)).flatten().cpu()
        most = max(SAMPLES // len(boxes), 200)
        every = torch.arange(len(vectors))
        taken = torch.cat(
            [part[torch.randperm(len(part), generator=generator)[:most]] for part in (every[shown], every[~shown])]
        )
        found.append((vectors[taken], shown[taken], brightness[taken]))
    clock.report(len(boxes))
    vectors, shown, brightness = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _Sampled(vectors, shown, brightness)


def _foreground(sampled: _Sampled) -> tuple[torch.Tensor, float, torch.Tensor]:
    """The first component (C, 1), the projection on it above which is foreground, and the vectors there (m, C).

    The component's sign is that with which it rises with brightness.
    """
    import SimpleITK as sitk
    import torch

    _, components = _components(sampled.vectors)
    first = components[:, :1]
    scores = (sampled.vectors @ first).flatten()
    rises = torch.dot(scores - scores.mean(), sampled.brightness - sampled.brightness.mean()) >= 0
    first, scores = (first, scores) if rises else (-first, -scores)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(scores.numpy()[None]))
    threshold = float(otsu.GetThreshold())
    vectors = sampled.vectors[scores > threshold]
    return (first, threshold, vectors) if len(vectors) >= FEWEST else (first, -np.inf, sampled.vectors)


def _joined(network: DenseNetwork, padded: torch.Tensor, spacing: Any) -> torch.Tensor:
    """A transformer's last map; a pyramid's maps, brought to one grid."""
    import torch
    from torch.nn.functional import interpolate

    maps = network.features(padded, spacing)
    if network.backbone.kind == "tokens":
        return maps[-1].float()
    size = [max(length // COARSE, 1) for length in padded.shape[-3:]]
    return torch.cat([interpolate(each.float(), size=size, mode="trilinear") for each in maps], dim=1)


def _components(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (C,) and the three components (C, 3), on channels scaled to unit deviation.

    The sign of a component is arbitrary; its largest entry is made positive, so that colours stay the same.
    """
    import torch

    vectors = vectors.double()
    mean, deviation = vectors.mean(dim=0), vectors.std(dim=0) + 1e-6
    scaled = (vectors - mean) / deviation
    _, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    count = min(3, directions.shape[1])
    first = directions[:, -count:].flip(1)
    largest = first.gather(0, first.abs().argmax(dim=0, keepdim=True))
    components = torch.zeros(directions.shape[0], 3, dtype=torch.double)
    components[:, :count] = first * largest.sign() / deviation[:, None]
    return mean.float(), components.float()


def _padded_to(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    from torch.nn.functional import pad

    missing = [wanted - length for wanted, length in zip(size, mask.shape, strict=True)]
    return pad(mask, (0, missing[2], 0, missing[1], 0, missing[0]))


def at_size(coarse: torch.Tensor, padded: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """A coarse map of a padded window at each voxel of the window."""
    from torch.nn.functional import interpolate

    x, y, z = size
    fine = interpolate(coarse.float(), size=tuple(padded), mode="trilinear", align_corners=False)
    return fine[..., :x, :y, :z]
