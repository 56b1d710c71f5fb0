"""Data sets over a crop store: which volume a draw names, what replaces it, and of 4D which frame."""

from __future__ import annotations

from typing import TypeVar

import torch

from fm3d_core.pretraining.endless_loading import SubstitutingDataset
from fm3d_core.pretraining.sampling import Draw
from fm3d_core.volumes.crop_store import CropStore

SampleT = TypeVar("SampleT")


class StoreDataset(SubstitutingDataset[Draw, SampleT]):
    """Samples of a store's volumes; one that cannot be read is replaced by another, the same in every repetition.

    Args:
        store: of volumes.
    """

    def __init__(self, store: CropStore) -> None:
        self.store, self.root = store, store.root

    def __len__(self) -> int:
        return len(self.store)

    def first_choice(self, draw: Draw) -> int:
        return draw.index

    def substitute(self, draw: Draw, generator: torch.Generator) -> int:
        return int(torch.randint(len(self.store), (), generator=generator))

    def draw_frame(self, index: int, generator: torch.Generator) -> int:
        """A frame of a volume: of 4D a new one each time."""
        return int(torch.randint(len(self.store.volumes[index].frames), (), generator=generator))
