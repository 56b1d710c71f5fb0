"""Looking into a network: its features as colours, and what the class token of a transformer attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.devices import autocast
from fm3d_core.errors import AdapterError, Stopped
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


def feature_colours(
    predictor: Predictor,
    volume: Volume,
    *,
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
        progress: receives the stages "computing features" and "segmenting".
        should_stop: asked at every window.

    Returns:
        (X, Y, Z, 3) uint8 on the volume's RAS grid, black where the image is empty.

    Raises:
        SettingsError: the task is for images of several channels.
        Stopped: ``should_stop`` said so.
    """
    import torch

    prepared = _prepared(predictor, volume)
    filled = (prepared.image > EMPTY).any(dim=0)
    vectors = _sampled(predictor, prepared, filled, progress, should_stop)
    projection = _Projection(predictor.network, *_components(vectors))
    components = _slid(projection, predictor, prepared, progress, should_stop)
    colours = []
    for component in components:
        inside = component[filled] if bool(filled.any()) else component.flatten()
        low, high = np.percentile(inside.numpy(), TAILS)
        scaled = ((component - low) / max(high - low, 1e-6)).clamp(0, 1)
        colours.append(prepared.restore_map(torch.where(filled, scaled * 255, 0.0)))
    return np.stack(colours, axis=-1).round().astype(np.uint8)


def attention_map(
    predictor: Predictor,
    volume: Volume,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> npt.NDArray[np.float32]:
    """What the class token of the last block attends to, mean over the heads (as in Caron et al. 2021, DINO).

    Args:
        predictor, volume, progress, should_stop: as for :func:`feature_colours`.

    Returns:
        (X, Y, Z) float32 on the volume's RAS grid; 1 is what a patch gets if all get the same.

    Raises:
        AdapterError: the backbone has no class token, and so no such attention.
        Stopped: ``should_stop`` said so.
    """
    if not hasattr(predictor.network.backbone, "last_attention"):
        raise AdapterError(
            f"the backbone {predictor.card.backbone.preset} is no transformer with a class token",
            remedy="Look at its features instead, or train with a ViT",
        )
    prepared = _prepared(predictor, volume)
    (found,) = _slid(_Attention(predictor.network), predictor, prepared, progress, should_stop)
    return prepared.restore_map(found)


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
        return _at_size(found, padded.shape[-3:], windows.shape[-3:])


class _Attention:
    """A network whose score is the class token's attention."""

    def __init__(self, network: DenseNetwork) -> None:
        self._network = network

    def __call__(self, windows: torch.Tensor, spacing: Any = None) -> torch.Tensor:
        padded = self._network.prepare(windows)
        backbone: Any = self._network.backbone
        weights = backbone.last_attention(padded, spacing).float()
        of_patches = weights[:, :, 0, backbone.leading_tokens :].mean(dim=1)
        share = of_patches * of_patches.shape[1] / of_patches.sum(dim=1, keepdim=True)
        grid = backbone.grid_of(padded)
        return _at_size(share.unflatten(1, grid)[:, None], padded.shape[-3:], windows.shape[-3:])


def _prepared(predictor: Predictor, volume: Volume) -> PreparedVolume:
    preprocessing = predictor.card.task.preprocessing
    assert preprocessing is not None  # an adapter's task always has one
    prepared = preprocessing.prepare(volume)
    predictor.card.task.check_channels(len(prepared.image))
    return prepared


def _slid(
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
) -> torch.Tensor:
    """Feature vectors (n, C) from all over the volume, of what is not empty if there is any."""
    import torch
    from torch.nn.functional import adaptive_max_pool3d

    x, y, z = prepared.image.shape[-3:]
    boxes = list(windows_of((x, y, z), predictor.card.window))
    generator = torch.Generator().manual_seed(0)
    clock = StageClock("computing features", len(boxes), progress)
    found: list[torch.Tensor] = []
    spare: list[torch.Tensor] = []
    for done, box in enumerate(boxes):
        if should_stop():
            raise Stopped("The look at the features")
        clock.report(done)
        with torch.inference_mode(), autocast(predictor.device):
            padded = predictor.network.prepare(prepared.image[(slice(None), *box)][None].to(predictor.device))
            features = _joined(predictor.network, padded, prepared.spacing)[0].float().cpu()
        vectors = features.flatten(1).T
        inside = _padded_to(filled[box].float(), padded.shape[-3:])
        shown = adaptive_max_pool3d(inside[None, None], features.shape[-3:]).flatten() > 0
        for part, kept in ((vectors[shown], found), (vectors, spare)):
            order = torch.randperm(len(part), generator=generator)[: max(SAMPLES // len(boxes), 200)]
            kept.append(part[order])
    clock.report(len(boxes))
    of_image = torch.cat(found)
    return of_image if len(of_image) >= 10 else torch.cat(spare)


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


def _at_size(coarse: torch.Tensor, padded: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """A coarse map of a padded window at each voxel of the window."""
    from torch.nn.functional import interpolate

    x, y, z = size
    fine = interpolate(coarse.float(), size=tuple(padded), mode="trilinear", align_corners=False)
    return fine[..., :x, :y, :z]
