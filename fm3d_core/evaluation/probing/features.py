"""Vectors of images from a frozen backbone, each computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.devices import autocast
from fm3d_core.errors import CaseError, FM3DError, Stopped
from fm3d_core.evaluation.probing.vectors import ImageVectors
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from fm3d_core.adaptation.feature_cache import FeatureCache
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import ListedCase, Preprocessing, Volume

LAYERS = 4  # of the last ones that are kept


@dataclass(frozen=True)
class FrozenBackbone:
    """What looks at images, and how they are prepared for it.

    Attributes:
        network: only its backbone is asked.
        sha256: of the backbone.
        preprocessing: of each image.
        crop: voxels from the middle of the prepared image, padded where it is smaller; None: all of it.
        device: where the network is.
    """

    network: DenseNetwork
    sha256: str
    preprocessing: Preprocessing
    crop: Size | None
    device: torch.device

    @property
    def layers(self) -> int:
        """How many last layers a vector has."""
        tokens = self.network.backbone.kind == "tokens"
        return LAYERS if tokens else min(LAYERS, len(self.network.backbone.feature_channels))


@dataclass(frozen=True)
class SeenCases:
    """What was computed.

    Attributes:
        vectors: one row per case that could be used.
        names: of these cases.
        hashes: case -> sha256 of its image files.
        left_out: why the others could not be used.
    """

    vectors: ImageVectors
    names: tuple[str, ...]
    hashes: dict[str, str]
    left_out: tuple[str, ...]


def vectors_of_cases(
    cases: Sequence[ListedCase],
    backbone: FrozenBackbone,
    cache: FeatureCache,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> SeenCases:
    """Vectors of the last layers of every case; a case that cannot be read is left out.

    Args:
        cases: at least one.
        backbone: what looks.
        cache: vectors that are in it are not computed again.
        progress: receives the stage "computing features".
        should_stop: asked at every case.

    Raises:
        CaseError: no case could be used.
        Stopped: ``should_stop`` said so; what was computed is kept.
    """
    import torch

    from fm3d_core.volumes import read_channels

    clock = StageClock("computing features", len(cases), progress)
    rows: list[list[torch.Tensor]] = []
    names, hashes, left_out = [], {}, []
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Computing features")
        clock.report(done)
        try:
            volume = read_channels(case.images, backbone.network.backbone.input_channels)
            rows.append(_vectors(backbone, _prepared(volume, backbone), cache))
            hashes[case.name] = sha256_of_images(case.images)
        except FM3DError as error:
            left_out.append(f"{case.name}: {error.problem}")
            continue
        names.append(case.name)
    clock.report(len(cases))
    if not rows:
        raise CaseError("no case could be used", remedy=f"The first: {left_out[0]}" if left_out else "Add cases")
    parts = [torch.cat(each) for each in zip(*rows, strict=True)]
    layers, patch = parts[: backbone.layers], parts[backbone.layers :]
    return SeenCases(ImageVectors(tuple(layers), patch[0] if patch else None), tuple(names), hashes, tuple(left_out))


def sha256_of_images(paths: Sequence[Path]) -> str:
    """One hash for the files of all channels."""
    import hashlib

    from fm3d_core.adaptation.cases import sha256_of_image

    each = [sha256_of_image(path) for path in paths]
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()


def in_the_middle(image: torch.Tensor, crop: Size) -> torch.Tensor:
    """(C, *crop) voxels from the middle of (C, X, Y, Z); background where the image is smaller."""
    from torch.nn.functional import pad

    from fm3d_core.models.network import BACKGROUND

    missing = [max(wanted - size, 0) for wanted, size in zip(crop, image.shape[1:], strict=True)]
    amounts = [part for gap in reversed(missing) for part in (gap // 2, gap - gap // 2)]
    padded = pad(image, amounts, value=BACKGROUND)
    starts = [(size - wanted) // 2 for wanted, size in zip(crop, padded.shape[1:], strict=True)]
    x, y, z = (slice(start, start + wanted) for start, wanted in zip(starts, crop, strict=True))
    return padded[:, x, y, z].contiguous()


@dataclass(frozen=True)
class _Seen:
    """An image as the backbone sees it."""

    image: torch.Tensor
    spacing: tuple[float, float, float]


def _prepared(volume: Volume, backbone: FrozenBackbone) -> _Seen:
    prepared = backbone.preprocessing.prepare(volume)
    image = prepared.image if backbone.crop is None else in_the_middle(prepared.image, backbone.crop)
    return _Seen(image, prepared.spacing)


def _vectors(backbone: FrozenBackbone, seen: _Seen, cache: FeatureCache) -> list[torch.Tensor]:
    """(1, C) of each layer, and of the mean patch token."""
    import torch

    from fm3d_core.models.image_heads import image_maps

    key = cache.of(f"{backbone.sha256}, vectors of the last layers", backbone.device).key(backbone.network, seen)
    kept = cache.read(key)
    if kept is not None:
        return kept
    network = backbone.network
    with torch.inference_mode(), autocast(backbone.device):
        padded = network.prepare(seen.image[None].to(backbone.device))
        tokens = network.backbone.kind == "tokens"
        maps = image_maps(network.backbone, padded, backbone.layers, tokens, seen.spacing)
        found = [each.float().mean(dim=(2, 3, 4)).cpu() for each in maps]
    cache.write(key, found)
    return found
