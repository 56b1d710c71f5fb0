"""Batches of labelled crops, each with what its set has annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fm3d_core.pretraining.batches import Batch
from fm3d_core.pretraining.endless_loading import EndlessLoader, SubstitutingDataset
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.partial_labels.balanced_sampling import BalancedDraw, BalancedSampler
from fm3d_core.pretraining.partial_labels.crops import CaseReader, LabelledCropSettings, draw_crops
from fm3d_core.pretraining.partial_labels.prepared_sets import PreparedSet


@dataclass(frozen=True)
class LabelledSample:
    """The crops of one volume.

    Attributes:
        name: "SET/CASE".
        images: (N, 1, X, Y, Z) float32.
        labels: (N, X, Y, Z) uint8 structure numbers.
        annotated: (C,) bool.
        unreadable: reasons of the volumes that should have been there instead, empty as a rule.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    annotated: torch.Tensor
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Crops of several volumes.

    Attributes:
        images: (B, 1, X, Y, Z) float32; B is volumes times crops of each.
        labels: (B, X, Y, Z) uint8 structure numbers of the label maps' list, 0 background.
        annotated: (B, C) bool: which of the head's structures the crop's set has labelled.
        names: of the volumes, in order.
        unreadable: one line for each volume that could not be read and was replaced.
    """

    images: torch.Tensor
    labels: torch.Tensor
    annotated: torch.Tensor
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


class LabelledDataset(SubstitutingDataset[BalancedDraw, LabelledSample]):
    """Cuts the crops of a draw. A case that cannot be read is replaced by another of its set.

    Args:
        sets: of prepared cases; a draw's index counts through all of them.
        structures: of the head, in order.
        crops: what is cut.
        root: of the cache, for messages.
    """

    def __init__(
        self, sets: Sequence[PreparedSet], structures: Sequence[str], crops: LabelledCropSettings, root: Path
    ) -> None:
        self.cases = [(case, number) for number, item in enumerate(sets) for case in item.cases]
        self.members = [
            [i for i, (_, owner) in enumerate(self.cases) if owner == number] for number in range(len(sets))
        ]
        self.annotated = [
            torch.tensor([name in item.labelled_set.label_map.structures for name in structures]) for item in sets
        ]
        self.crops, self.root = crops, root
        self._reader = CaseReader()

    def __len__(self) -> int:
        return len(self.cases)

    def groups(self, sets: Sequence[PreparedSet]) -> dict[str, tuple[int, ...]]:
        """What is balanced: group -> indices of its cases."""
        found: dict[str, tuple[int, ...]] = {}
        for item, members in zip(sets, self.members, strict=True):
            name = item.labelled_set.group
            found[name] = (*found.get(name, ()), *members)
        return found

    def first_choice(self, draw: BalancedDraw) -> int:
        return draw.index

    def substitute(self, draw: BalancedDraw, generator: torch.Generator) -> int:
        members = self.members[self.cases[draw.index][1]]
        return members[int(torch.randint(len(members), (), generator=generator))]

    def sample(
        self, index: int, draw: BalancedDraw, generator: torch.Generator, unreadable: tuple[str, ...]
    ) -> LabelledSample:
        case, owner = self.cases[index]
        images, labels = draw_crops(self._reader, case, self.crops, generator)
        return LabelledSample(case.name, images, labels, self.annotated[owner], unreadable)


LabelledLoader = EndlessLoader[BalancedDraw, LabelledSample, LabelledBatch]


def collate(samples: Sequence[LabelledSample]) -> LabelledBatch:
    """One batch."""
    return LabelledBatch(
        torch.cat([sample.images for sample in samples]),
        torch.cat([sample.labels for sample in samples]),
        torch.cat([sample.annotated.expand(len(sample.images), -1) for sample in samples]),
        tuple(sample.name for sample in samples),
        tuple(line for sample in samples for line in sample.unreadable),
    )


def labelled_loader(
    sets: Sequence[PreparedSet], structures: Sequence[str], crops: LabelledCropSettings, root: Path, place: Place
) -> LabelledLoader:
    """The loader of one process."""
    dataset = LabelledDataset(sets, structures, crops, root)
    sampler = BalancedSampler(
        dataset.groups(sets), place.batch_size, seed=place.seed, rank=place.rank, world_size=place.world_size
    )
    return EndlessLoader(dataset, sampler, collate, place)
