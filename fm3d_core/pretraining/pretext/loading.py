"""Batches of pairs of views, cut out of a crop store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fm3d_core.pretraining.batches import Batch
from fm3d_core.pretraining.crops import CropSettings, draw_box, read_crop
from fm3d_core.pretraining.endless_loading import EndlessLoader
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.pretext.views import CutOutSettings, draw_view
from fm3d_core.pretraining.sampling import Draw, EndlessSampler
from fm3d_core.pretraining.store_dataset import StoreDataset
from fm3d_core.volumes.crop_store import CropStore


@dataclass(frozen=True)
class ViewPair:
    """Two views of one crop.

    Attributes:
        name: of the volume.
        images: (2, 1, X, Y, Z) float32, turned but whole.
        hidden: (2, 1, X, Y, Z) bool: what is cut out.
        quarters: (2,) by how many quarters each was turned.
        unreadable: reasons of the volumes that should have been there instead, empty as a rule.
    """

    name: str
    images: torch.Tensor
    hidden: torch.Tensor
    quarters: torch.Tensor
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class ViewBatch(Batch):
    """Pairs of views of N crops: the first views of all crops, then the second ones.

    Attributes:
        images: (2N, 1, X, Y, Z) float32, turned but whole.
        hidden: (2N, 1, X, Y, Z) bool.
        quarters: (2N,) int64.
        names: of the N volumes.
        unreadable: one line for each stored volume that could not be read and was replaced.
    """

    images: torch.Tensor
    hidden: torch.Tensor
    quarters: torch.Tensor
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


class ViewDataset(StoreDataset[ViewPair]):
    """Cuts a crop of a draw's volume and makes its two views.

    Args:
        store: of volumes.
        crop: what is cut.
        cut_out: what is hidden.
    """

    def __init__(self, store: CropStore, crop: CropSettings, cut_out: CutOutSettings) -> None:
        super().__init__(store)
        self.crop, self.cut_out = crop, cut_out

    def sample(self, index: int, draw: Draw, generator: torch.Generator, unreadable: tuple[str, ...]) -> ViewPair:
        volume = self.store.volumes[index]
        frame = self.draw_frame(index, generator)
        box = draw_box(volume.shape, self.crop, generator)
        crop = read_crop(self.store, index, frame, box, self.crop.size)
        views = [draw_view(crop, self.cut_out, generator) for _ in range(2)]
        images, hidden, quarters = zip(*views, strict=True)
        return ViewPair(volume.name, torch.stack(images), torch.stack(hidden), torch.tensor(quarters), unreadable)


ViewLoader = EndlessLoader[Draw, ViewPair, ViewBatch]


def collate(samples: Sequence[ViewPair]) -> ViewBatch:
    """One batch."""

    def joined(name: str) -> torch.Tensor:
        return torch.stack([getattr(sample, name) for sample in samples], dim=1).flatten(0, 1)

    return ViewBatch(
        joined("images"),
        joined("hidden"),
        joined("quarters"),
        tuple(sample.name for sample in samples),
        tuple(line for sample in samples for line in sample.unreadable),
    )


def view_loader(store: CropStore, crop: CropSettings, cut_out: CutOutSettings, place: Place) -> ViewLoader:
    """The loader of one process."""
    sampler = EndlessSampler.of(place, len(store))
    return EndlessLoader(ViewDataset(store, crop, cut_out), sampler, collate, place)
