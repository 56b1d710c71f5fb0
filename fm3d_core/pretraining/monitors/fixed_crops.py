"""The same few crops each time a monitor looks, and a backbone's features of them, computed once per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fm3d_core.errors import VolumeError
from fm3d_core.pretraining.crops import Box, CropSettings, draw_box, read_crop, resample
from fm3d_core.volumes.crop_store import CropStore

Triple = tuple[int, int, int]
Millimetres = tuple[float, float, float]

# Part of a volume that a probe's crop covers: of the plane's area, and of the slices.
_AREA, _DEPTH = (0.2, 0.4), (0.4, 0.6)
_MAP_STRIDE = 8  # of a pyramid, the map nearest to this stride stands for patches


@dataclass(frozen=True)
class FixedVolume:
    """A volume that monitors look at.

    Attributes:
        name: for pictures.
        modality: "CT", "MR", "PT", "unknown" or "drawn".
        shape: voxels.
        spacing: in mm.
        axes: where its axes come from in RAS, as in the crop store.
        read: gives a box of it, resized: (1, *size) float32 in [-1, 1].
    """

    name: str
    modality: str
    shape: Triple
    spacing: Millimetres
    axes: Triple
    read: Callable[[Box, Triple], torch.Tensor]


def stored_volumes(root: Path, most: int = 16) -> list[FixedVolume]:
    """Evenly chosen ones of a crop store.

    Raises:
        CaseError: no readable store.
    """
    store = CropStore(root)
    count = min(most, len(store))
    chosen = [index * len(store) // count for index in range(count)]

    def reader(index: int) -> Callable[[Box, Triple], torch.Tensor]:
        return lambda box, size: read_crop(store, index, 0, box, size)

    return [
        FixedVolume(stored.name, stored.modality, stored.shape, stored.spacing, stored.axes, reader(index))
        for index in chosen
        for stored in [store.volumes[index]]
    ]


def drawn_volumes(count: int = 8, shape: Triple = (64, 64, 56)) -> list[FixedVolume]:
    """Synthetic ones, for runs that learn from no crop store."""
    from fm3d_core.volumes import draw_case

    volumes = []
    for seed in range(count):
        image, _, affine = draw_case(seed, shape=shape)
        low, high = float(image.min()), float(image.max())
        values = torch.from_numpy(image).sub_(low).mul_(2 / max(high - low, 1e-6)).sub_(1)
        # the drawing's own orientation is kept: it is the same each time, and all that matters here
        x, y, z = (float(step) for step in (affine[:3, :3] ** 2).sum(axis=0) ** 0.5)

        def read(box: Box, size: Triple, values: torch.Tensor = values) -> torch.Tensor:
            return resample(values, box.start, box.length, size)[None]

        volumes.append(FixedVolume(f"drawn {seed}", "drawn", shape, (x, y, z), (0, 1, 2), read))
    return volumes


@dataclass(frozen=True)
class Features:
    """Of n crops.

    Attributes:
        whole: (n, C) float32 on the CPU: class tokens, or a pyramid's deepest map averaged.
        patches: (n, N, C): patch tokens, or the cells of a pyramid's map with a stride near 8.
        grid: cells of ``patches`` along each axis.
    """

    whole: torch.Tensor
    patches: torch.Tensor
    grid: Triple


class FixedCrops:
    """A few crops of each volume.

    Args:
        volumes: that can be read.
        per_volume: crops of each.
        edge: voxels along each axis, rounded to what the backbone takes.
        batch: crops that the backbone sees at once.
    """

    def __init__(self, volumes: Sequence[FixedVolume], per_volume: int = 4, edge: int = 96, batch: int = 8) -> None:
        self.volumes, self.per_volume, self.edge, self.batch = list(volumes), per_volume, edge, batch
        self.volume_of = torch.arange(len(volumes)).repeat_interleave(per_volume)  # (n,)
        settings = CropSettings((1, 1, 1), per_volume, _AREA, _DEPTH)
        self.boxes = [
            draw_box(volume.shape, settings, torch.Generator().manual_seed(1000 * index + number))
            for index, volume in enumerate(volumes)
            for number in range(per_volume)
        ]
        self._images: dict[Triple, torch.Tensor] = {}
        self._last: tuple[int, int, Features] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def features(self, backbone: nn.Module, step: int) -> Features:
        """The backbone's features of all crops; the second call of a step costs nothing.

        Raises:
            VolumeError: a volume that cannot be read any more.
        """
        if self._last is None or self._last[:2] != (step, id(backbone)):
            size = legal_size(backbone, self.edge)
            if size not in self._images:
                self._images = {size: torch.stack(list(self._read(size)))}
            self._last = (
                step,
                id(backbone),
                features_of(backbone, self._images[size], self.spacings(size), self.batch),
            )
        return self._last[2]

    def spacings(self, size: Triple) -> torch.Tensor:
        """Voxel size in mm of each crop (n, 3)."""
        pairs = zip(self.boxes, self.volume_of.tolist(), strict=True)
        return torch.tensor([box.spacing(self.volumes[index].spacing, size) for box, index in pairs])

    def _read(self, size: Triple) -> Any:
        for box, index in zip(self.boxes, self.volume_of.tolist(), strict=True):
            yield self.volumes[index].read(box, size)


def legal_size(backbone: Any, edge: int) -> Triple:
    """The nearest size to ``edge`` along each axis that the backbone takes."""
    x, y, z = (max(round(edge / step), 1) * step for step in backbone.size_multiple)
    return x, y, z


@torch.no_grad()
def features_of(backbone: Any, images: torch.Tensor, spacings: torch.Tensor, batch: int) -> Features:
    """Features of ``images`` (n, 1, X, Y, Z), each with its voxel size in ``spacings`` (n, 3)."""
    parameter = next(backbone.parameters())
    whole, patches, grid = [], [], (0, 0, 0)
    for part, millimetres in zip(images.split(batch), spacings.split(batch), strict=True):
        part = part.to(parameter.device, parameter.dtype).expand(-1, backbone.input_channels, -1, -1, -1)
        if backbone.kind == "tokens":
            rotary = getattr(backbone, "rotary_wavelengths", None) is not None
            found = backbone.forward_features(part, spacing=millimetres.to(part.device) if rotary else None)
            summary, cells, grid = found.cls_token, found.patch_tokens, backbone.grid_of(part)
        else:
            maps = backbone.features(part)
            level = min(range(len(maps)), key=lambda i: abs(max(backbone.feature_strides[i]) - _MAP_STRIDE))
            summary, cells = maps[-1].mean(dim=(2, 3, 4)), maps[level].flatten(2).transpose(1, 2)
            grid = tuple(maps[level].shape[2:])
        whole.append(summary.float().cpu())
        patches.append(cells.float().cpu())
    features = Features(torch.cat(whole), torch.cat(patches), grid)
    if not (features.whole.isfinite().all() and features.patches.isfinite().all()):
        raise VolumeError("the features of the monitors' crops are not finite", remedy="Look at the loss of the run")
    return features
