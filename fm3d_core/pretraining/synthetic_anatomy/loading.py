"""Endless batches of made-up patients; each follows from its number alone, so workers and resumes change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from fm3d_core.errors import SettingsError
from fm3d_core.models.voxel_features import draw_voxels
from fm3d_core.pretraining.batches import Batch
from fm3d_core.pretraining.endless_loading import EndlessLoader
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.sampling import Draw
from fm3d_core.pretraining.synthetic_anatomy.anatomy import draw_anatomy
from fm3d_core.pretraining.synthetic_anatomy.patient import Size, draw_patient
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import chance, generator_of
from fm3d_core.pretraining.synthetic_anatomy.scan import draw_scanner, scan

SIZES: tuple[Size, ...] = (
    (48, 48, 48),
    (48, 64, 48),
    (64, 48, 48),
    (48, 48, 64),
    (32, 64, 64),
    (64, 64, 32),
    (64, 64, 24),
)


@dataclass(frozen=True)
class PairSettings:
    """What one sample is: two patients of one anatomy, each scanned.

    Attributes:
        sizes: of the volumes in voxels; a batch has one of them.
        same_scanner: how often both are scanned alike; else what a structure looks like differs between them.
        voxels: of each volume that the loss looks at.

    Raises:
        SettingsError: no size, a share outside of [0, 1], fewer than 2 voxels.
    """

    sizes: tuple[Size, ...] = SIZES
    same_scanner: float = 0.7
    voxels: int = 512

    def __post_init__(self) -> None:
        sound = self.sizes and all(min(size) >= 8 for size in self.sizes)
        if not sound or not 0 <= self.same_scanner <= 1 or self.voxels < 2:
            raise SettingsError(
                f"impossible pairs {self}", remedy="Give sizes of 8 voxels or more, a share, and 2 voxels or more"
            )


@dataclass(frozen=True)
class PairSample:
    """Two scans (2, 1, X, Y, Z), their labels (2, X, Y, Z), and flat indices of voxels (2, n) of each."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    voxels: torch.Tensor


@dataclass(frozen=True)
class PairBatch(Batch):
    """B samples.

    Attributes:
        images: (2B, 1, X, Y, Z), the two of a sample next to each other.
        labels: (B, 2n) of the voxels.
        voxels: (2B, n) flat indices.
        names: of the samples.
    """

    images: torch.Tensor
    labels: torch.Tensor
    voxels: torch.Tensor
    names: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


def draw_pair(seed: int, number: int, size: Size, settings: PairSettings) -> PairSample:
    """Sample ``number`` of a run with ``seed``, always the same."""
    generator = generator_of(Draw(seed, 0, number).stream("synthetic anatomy"))
    anatomy = draw_anatomy(generator)
    labels = [draw_patient(anatomy, size, generator) for _ in range(2)]
    first = draw_scanner(anatomy.labels, anatomy.air, generator)
    second = first
    if not chance(settings.same_scanner, generator):
        second = draw_scanner(anatomy.labels, anatomy.air, generator)
    images = [scan(label, scanner, generator) for label, scanner in zip(labels, (first, second), strict=True)]
    voxels = [draw_voxels(label, settings.voxels, generator) for label in labels]
    return PairSample(f"synthetic {number}", torch.stack(images)[:, None], torch.stack(labels), torch.stack(voxels))


class PairDataset(Dataset[PairSample]):
    """Samples by (number, size)."""

    def __init__(self, settings: PairSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def __getitem__(self, key: Key) -> PairSample:
        number, size = key
        return draw_pair(self.seed, number, size, self.settings)


def collate_pairs(samples: Sequence[PairSample]) -> PairBatch:
    """One batch of samples of equal size."""
    labels = [sample.labels.flatten(1).gather(1, sample.voxels).flatten() for sample in samples]
    return PairBatch(
        torch.cat([sample.images for sample in samples]),
        torch.stack(labels),
        torch.cat([sample.voxels for sample in samples]),
        tuple(sample.name for sample in samples),
    )


Key = tuple[int, Size]
PairLoader = EndlessLoader[Key, PairSample, PairBatch]


def pair_loader(settings: PairSettings, place: Place) -> PairLoader:
    """Batches without end; the ranks share one sequence of samples, as in EndlessSampler."""
    dataset, sampler = PairDataset(settings, place.seed), PairSampler(settings.sizes, place)
    return EndlessLoader(dataset, sampler, collate_pairs, place, prefetch=4)


class PairSampler:
    """Batches of (sample number, size): rank r of W takes r, r + W, ...; all ranks have the same size in a step."""

    def __init__(self, sizes: Sequence[Size], place: Place) -> None:
        self.sizes, self.place, self.position = sizes, place, 0

    def __iter__(self) -> Iterator[list[Key]]:
        place, start = self.place, self.position
        while True:
            size = self.sizes[Draw(place.seed, 0, start).stream("size") % len(self.sizes)]
            yield [(start + place.rank + i * place.world_size, size) for i in range(place.batch_size)]
            start += place.batch_size * place.world_size

    def consumed(self, batches: int = 1) -> None:
        """Tell that every rank has taken so many batches."""
        self.position += batches * self.place.batch_size * self.place.world_size

    def state_dict(self) -> dict[str, Any]:
        """How many samples all ranks have taken, and the seed."""
        return {"position": self.position, "seed": self.place.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            SettingsError: the state belongs to another seed.
        """
        if state["seed"] != self.place.seed:
            raise SettingsError(
                f"the run to resume has the seed {state['seed']}, this one {self.place.seed}",
                remedy="Resume with the seed it was started with, or start a new run",
            )
        self.position = int(state["position"])
