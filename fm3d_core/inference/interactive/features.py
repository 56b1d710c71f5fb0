"""Frozen features of the parts of a volume that are worked on, computed once and used again at each click."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fm3d_core.devices import autocast, choose_device
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.inference.interactive.decoding import Sketch, prompt_decoder
from fm3d_core.inference.interactive.geodesic import Field
from fm3d_core.inference.interactive.random_walker import RandomWalker
from fm3d_core.inference.interactive.region import Region
from fm3d_core.inference.interactive.results import Results
from fm3d_core.progress import ShouldStop, never_stop
from fm3d_core.volumes import Preprocessing, Volume
from fm3d_core.volumes.preprocessing import without_padding

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation import Adapter
    from fm3d_core.models.network import DenseNetwork

DEFAULT_BACKBONE = "residual_unet_small"  # with the weights that come with FM3D
MEMORY = 512 * 2**20  # bytes that one volume's regions, or a cache of volumes, may hold
SCALES = (0.8, 2.0, 4.0)  # standard deviations of the smoothed images, in the finest spacing of the grid
SENSITIVITY = 60.0  # of the random walker, on the least smoothed image scaled to [-1, 1]

_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class RegionFeatures:
    """What a classifier sees of a region.

    Attributes:
        region: where it lies.
        image: (X, Y, Z) on the working grid, scaled to [-1, 1].
        smoothed: the same after Gaussian filters of :data:`SCALES`.
        maps: the backbone's, each (1, C_i, X'/s_i, Y'/s_i, Z'/s_i) float32.
        padded: (X', Y', Z'), the size the maps stand for; what lies beyond the image is background.
        walker: the random walker of this image.
    """

    region: Region
    image: Field
    smoothed: tuple[Field, ...]
    maps: list[torch.Tensor]
    padded: tuple[int, int, int]
    walker: RandomWalker

    @property
    def bytes(self) -> int:
        """Memory it takes, about."""
        of_maps = sum(each.numel() * each.element_size() for each in self.maps)
        return of_maps + self.image.nbytes * (5 + len(self.smoothed))


class FeatureVolume:
    """A volume with the frozen features of its regions; keeps those used last within a bound of memory.

    Args:
        volume: the image.
        backbone: of one image channel; None: the small one with the weights that come with FM3D.
        preprocessing: says how intensities are scaled, and what range the backbone expects; its spacing is not used,
            as the working grid follows the region.
        device: auto, cpu or cuda.
        memory: bytes that regions may hold.

    Raises:
        SettingsError: the backbone is for images of several channels.
        WeightsError: the backbone's weights cannot be used.
    """

    def __init__(
        self,
        volume: Volume,
        backbone: Any = None,
        *,
        preprocessing: Preprocessing | None = None,
        device: str = "auto",
        memory: int = MEMORY,
    ) -> None:
        from torch import nn

        from fm3d_core.models.network import DenseNetwork

        preprocessing = preprocessing or Preprocessing()
        own = default_backbone()
        backbone = own if backbone is None else backbone
        if backbone.input_channels != 1:
            raise SettingsError(
                f"the backbone takes images of {backbone.input_channels} channels",
                remedy="Interactive segmentation is for images of one channel",
            )
        self.volume = volume
        self.results = Results(volume.shape)
        self.device = choose_device(device)
        self._network = DenseNetwork(backbone, nn.Identity(), preprocessing.input_range).to(self.device).eval()
        self._sketching = (  # the prompt decoder knows the features of this backbone only
            self._network if backbone is own else DenseNetwork(own, nn.Identity()).to(self.device).eval()
        )
        self._range = preprocessing.window or _percentiles(volume, preprocessing.percentiles)
        self._memory = memory
        self._regions: OrderedDict[tuple[str, Region], Any] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of_adapter(
        cls, volume: Volume, adapter: Adapter, *, device: str = "auto", memory: int = MEMORY
    ) -> FeatureVolume:
        """With the backbone of an adapter, as far as it was trained.

        Raises:
            AdapterError, WeightsError: the adapter's network cannot be built.
        """
        backbone = adapter.build_network().backbone
        return cls(volume, backbone, preprocessing=adapter.card.task.preprocessing, device=device, memory=memory)

    @property
    def bytes(self) -> int:
        """Memory that volume and regions take, about."""
        with self._lock:
            kept = sum(each.bytes for each in self._regions.values())
        return int(self.volume.array.nbytes) + kept + self.results.bytes

    def at(self, region: Region, *, should_stop: ShouldStop = never_stop) -> RegionFeatures:
        """The features of a region, computed on the first call.

        Raises:
            Stopped: ``should_stop`` said so.
        """
        return self._kept(("features", region), self._compute, should_stop)

    def sketch(self, region: Region, *, should_stop: ShouldStop = never_stop) -> Sketch:
        """What the prompt decoder needs of a region, computed on the first call.

        Raises:
            Stopped: ``should_stop`` said so.
        """
        return self._kept(("sketch", region), self._encode, should_stop)

    def _kept(self, key: tuple[str, Region], compute: Callable[[Region], _Kept], should_stop: ShouldStop) -> _Kept:
        with self._lock:
            if (found := self._regions.get(key)) is not None:
                self._regions.move_to_end(key)
                return found
        if should_stop():
            raise Stopped("Segmentation")
        computed = compute(key[1])
        with self._lock:
            self._regions[key] = computed
            while len(self._regions) > 1 and sum(each.bytes for each in self._regions.values()) > self._memory:
                self._regions.popitem(last=False)
        return computed

    def _encode(self, region: Region) -> Sketch:
        import torch
        from torch.nn import functional as F

        image, maps = self._maps(self._sketching, self._image(region), region)
        with torch.inference_mode():
            encoded = prompt_decoder().encode(maps)
            half = F.avg_pool3d(image, 2)[0, 0].numpy()
        return Sketch(region, image, half, encoded)

    def _image(self, region: Region) -> Field:
        low, high = self._range
        scaled: Field = np.clip((region.coarse(self.volume.array) - low) * (2 / (high - low)) - 1, -1, 1)
        return scaled

    def _maps(self, network: DenseNetwork, image: Field, region: Region) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The padded image and the backbone's maps, float32 on the CPU."""
        import torch

        with torch.inference_mode(), autocast(self.device):
            padded = network.prepare(torch.from_numpy(image)[None, None].to(self.device))
            maps = network.features(padded, region.spacing)
        return padded.cpu(), [each.float().cpu().contiguous() for each in maps]

    def _compute(self, region: Region) -> RegionFeatures:
        from scipy import ndimage

        image = self._image(region)
        finest = min(region.spacing)
        smoothed = tuple(
            ndimage.gaussian_filter(image, [scale * finest / step for step in region.spacing]) for scale in SCALES
        )
        padded, maps = self._maps(self._network, image, region)
        x, y, z = padded.shape[-3:]
        return RegionFeatures(
            region,
            image,
            smoothed,
            maps,
            (x, y, z),
            RandomWalker(smoothed[0], region.spacing, SENSITIVITY),
        )


class FeatureCache:
    """The volumes used last, for a server: within a bound of memory, safe from several threads.

    Args:
        memory: bytes that all volumes with their features may hold; the one used last always stays.
    """

    def __init__(self, memory: int = 2 * MEMORY) -> None:
        self._memory = memory
        self._volumes: OrderedDict[str, FeatureVolume] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], FeatureVolume]) -> FeatureVolume:
        """The volume kept under ``key``, made on the first call.

        Args:
            key: names the image and the backbone, and changes when the file does.
            make: reads the volume.
        """
        with self._lock:
            found = self._volumes.pop(key, None) or make()
            self._volumes[key] = found
            while len(self._volumes) > 1 and sum(each.bytes for each in self._volumes.values()) > self._memory:
                self._volumes.popitem(last=False)
            return found

    def drop(self, key: str) -> None:
        """Forget a volume, for example because its file was removed."""
        with self._lock:
            self._volumes.pop(key, None)


def default_backbone() -> Any:
    """The small backbone with the weights that come with FM3D."""
    from fm3d_core.models.weights.shipped_weights import shipped_for
    from fm3d_core.models.zoo import BackboneSpec, create_backbone

    shipped = shipped_for(DEFAULT_BACKBONE)
    return create_backbone(BackboneSpec(DEFAULT_BACKBONE, weights=shipped.sha256 if shipped else None))


def _percentiles(volume: Volume, percentiles: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(without_padding(volume.array), percentiles))
    if not low < high:
        low, high = float(volume.array.min()), float(volume.array.max())
    return (low, high) if low < high else (low, low + 1.0)
