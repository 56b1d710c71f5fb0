"""Features of the frozen backbone kept on disk: computed when a volume arrives, there when its label does."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fm3d_core.errors import Stopped, StorageError
from fm3d_core.files import atomic_file, home_folder
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.adapter import AdapterCard
    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.adaptation.settings import FinetuneSettings
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import Volume

logger = logging.getLogger(__name__)
LIMIT_BYTES = 8 * 1024**3
_SUFFIX = ".safetensors"


class FeatureCache:
    """One file per window of a volume; the ones that were not used for longest go when there is no more room.

    A file's name is the hash of all that its features follow from: the window's voxels as the network sees them (and so
    of the image, its preprocessing and the window), their size in mm, the backbone, and the precision it computes in.
    A file that cannot be read is made again. A full disk is no error: the features are then computed each time.

    Args:
        root: the folder; None: ``features`` in FM3D's own.
        limit: bytes of all files together.
    """

    def __init__(self, root: str | Path | None = None, limit: int = LIMIT_BYTES) -> None:
        self.root = Path(root) if root is not None else home_folder() / "features"
        self.limit = limit
        self._used: int | None = None  # counted at the first write, and again when there is no more room

    def of(self, backbone_sha256: str, device: torch.device) -> WindowFeatures:
        """The features of one backbone, computed on ``device``."""
        return WindowFeatures(self, backbone_sha256, device)

    def read(self, key: str) -> list[torch.Tensor] | None:
        """The tensors kept under ``key``, or None if there are none that can be read."""
        import safetensors
        from safetensors.torch import load

        path = self._path(key)
        try:
            tensors = load(path.read_bytes())
            os.utime(path)  # used now: it goes last
            return [tensors[str(index)] for index in range(len(tensors))]
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError, KeyError) as error:
            logger.warning("Kept features are damaged and are computed again (%s: %s)", path, error)
            path.unlink(missing_ok=True)
            return None

    def write(self, key: str, tensors: Iterable[torch.Tensor]) -> None:
        """Keep tensors under ``key``, all or nothing, and make room for them."""
        from safetensors.torch import save

        content = save({str(index): tensor.cpu().contiguous() for index, tensor in enumerate(tensors)})
        if len(content) > self.limit:
            return
        try:
            self._used = (self.used() if self._used is None else self._used) + len(content)
            if self._used > self.limit:
                self._make_room(len(content))
            with atomic_file(self._path(key)) as temporary:
                temporary.write_bytes(content)
        except StorageError as error:
            logger.warning("Features are not kept: %s", error)

    def used(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self._files())

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}{_SUFFIX}"

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was used last, its size and path; another process may remove some meanwhile."""
        found = []
        for path in self.root.glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found

    def _make_room(self, size: int) -> None:
        files = self._files()
        total = sum(each for _, each, _ in files) + size
        for _, each, path in sorted(files):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= each
        self._used = total


class SeenImage(Protocol):
    """What a backbone is given: ``image`` (C, X, Y, Z), ``spacing`` in mm."""

    @property
    def image(self) -> torch.Tensor: ...

    @property
    def spacing(self) -> tuple[float, float, float]: ...


@dataclass(frozen=True)
class WindowFeatures:
    """A backbone's features of windows, from the cache or computed; either way the very same half-precision values."""

    cache: FeatureCache
    backbone_sha256: str
    device: torch.device

    def __call__(self, network: DenseNetwork, part: TrainingCase, device: torch.device) -> list[torch.Tensor]:
        """As :func:`fm3d_core.adaptation.batches.window_features`."""
        from fm3d_core.adaptation.batches import window_features

        key = self.key(network, part)
        kept = self.cache.read(key)
        if kept is not None:
            return [tensor.to(device) for tensor in kept]
        maps = window_features(network, part, device)
        self.cache.write(key, maps)
        return maps

    def key(self, network: DenseNetwork, part: SeenImage) -> str:
        """The hash of all that the features of a prepared image follow from."""
        import torch

        from fm3d_core.devices import has_bfloat16

        about = {
            "backbone": self.backbone_sha256,
            "shape": list(part.image.shape),
            "spacing": [round(length, 6) for length in part.spacing],
            "input_range": list(network.input_range),
            "precision": f"{self.device.type} {'bfloat16' if has_bfloat16(self.device) else 'float32'}",
            "torch": torch.__version__,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        digest.update(part.image.contiguous().numpy().data)
        return digest.hexdigest()


def cache_features(
    volume: Volume,
    settings: FinetuneSettings,
    *,
    card: AdapterCard | None = None,
    cache: FeatureCache | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> int:
    """Compute a volume's features ahead of its label, so that the first answer after it takes no time.

    Training will find them if it prepares the volume in the same way: as the adapter it goes on from, or, for a first
    training, as planned from this volume alone.

    Args:
        volume: the image.
        settings: which backbone and weights, and the device.
        card: of the adapter that training will go on from; None: there is none.
        cache: where they are kept; None: in FM3D's folder.
        progress: receives the stage "computing features".
        should_stop: asked at every window.

    Returns:
        Number of windows.

    Raises:
        FM3DError: a mistake in settings or weights.
        Stopped: ``should_stop`` said so; what was computed is kept.
    """
    import torch

    from fm3d_core.adaptation.batches import plan_crop, windows_of
    from fm3d_core.adaptation.building import spec_of
    from fm3d_core.adaptation.cases import TrainingCase, plan_for_volumes
    from fm3d_core.devices import choose_device
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.models.zoo import backbone_sha256, create_backbone

    spec, fed = (card.backbone, None) if card is not None else spec_of(settings, 1)
    preprocessing = card.task.preprocessing if card is not None else None
    preprocessing = preprocessing or plan_for_volumes([volume], fed)
    backbone = create_backbone(spec)
    device = choose_device(settings.device)
    sha256 = backbone_sha256(backbone)
    network = DenseNetwork(backbone, torch.nn.Identity(), preprocessing.input_range).to(device)
    prepared = preprocessing.prepare(volume)
    empty = torch.zeros_like(prepared.image, dtype=torch.uint8)
    case = TrainingCase(volume.name, prepared.image, empty, prepared.spacing)
    windows = windows_of(case, card.window if card is not None else plan_crop([case], network.size_multiple))
    features = (cache or FeatureCache()).of(sha256, device)
    clock = StageClock("computing features", len(windows), progress)
    for done, part in enumerate(windows):
        if should_stop():
            raise Stopped("Computing features")
        clock.report(done)
        features(network, part, device)
    clock.report(len(windows))
    return len(windows)
