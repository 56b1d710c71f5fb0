"""Optimiser and size of the crop: mean Dice of FM3D's small network after so many core-seconds, one thread.

    python benchmarks/optimisers.py --data ../shared/data --sets btcv_ct --shots 3 --seeds 1 2

The volumes are those to learn from of few_shot_sets.py, some of them held out: no volume that a figure of the README
tests on is seen. The first way is the peer: AdamW as FM3D trained before, on crops of 64^3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from few_shot_row import score
from few_shot_sets import SETS, Split, development
from rich.console import Console

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase
from fm3d_core.adaptation.batches import LARGEST_CROP, plan_crop
from fm3d_core.adaptation.building import spec_of
from fm3d_core.adaptation.finetune import train
from fm3d_core.adaptation.methods.base import OptimiserName
from fm3d_core.adaptation.plan import TrainingPlan
from fm3d_core.adaptation.training_set import TrainingSet, read_training_set
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import read_volume

# optimiser, its learning rate (None: the method's own), voxels of a crop (None: FM3D's own)
Way = tuple[OptimiserName, float | None, int | None]
WAYS: tuple[Way, ...] = (
    ("adamw", 2e-3, LARGEST_CROP),
    ("adamw", 6e-3, LARGEST_CROP),
    ("muon", None, LARGEST_CROP),
    ("muon", None, None),
)


@dataclass(frozen=True)
class Optimisers:
    """What is compared.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        shots: labelled volumes.
        seeds: of volumes and training.
        seconds: core-seconds of training.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: int = 3
    seeds: tuple[int, ...] = (1, 2)
    seconds: float = 60

    def run(self) -> None:
        """Train each way, set by set."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        console = Console(highlight=False, soft_wrap=True)
        for name in self.sets:
            for optimiser, rate, voxels in WAYS:
                found = list(self._dice(name, (optimiser, rate, voxels)))
                rates = "own rate" if rate is None else f"rate {rate:g}"
                crops = "own crop" if voxels is None else f"crops up to {voxels ** (1 / 3):.0f}^3"
                each = ", ".join(f"{dice:.4f}" for dice in found)
                console.print(f"{name}, {optimiser}, {rates}, {crops}: {np.mean(found):.4f} ({each})")

    def _dice(self, name: str, way: Way) -> Iterator[float]:
        for seed in self.seeds:
            volumes = development(self.data, name, self.shots, seed)
            yield trained_and_scored(volumes, way, self.seconds, seed)


def trained_and_scored(volumes: Split, way: Way, seconds: float, seed: int) -> float:
    """Mean Dice on the held-out volumes."""
    predictor = Predictor(trained(volumes, way, seconds, seed))
    dice = score([predictor.segment(read_volume(case.image)) for case in volumes.test], volumes)["dice"]
    return float(dice)


def trained(volumes: Split, way: Way, seconds: float, seed: int) -> Adapter:
    """What is learned in so many core-seconds."""
    optimiser, rate, voxels = way
    settings = FinetuneSettings(seconds=seconds, seed=seed, clock="cpu", learning_rate=rate, optimiser=optimiser)
    cases = [LabeledCase(case.name, case.image, case.label) for case in volumes.training if case.label is not None]
    task = SegmentationTask(volumes.labels)
    data = read_training_set(cases, task, spec_of(settings, task.channels)[1])
    return train(data, settings, plan=TrainingPlan(crop=_crop(data, voxels)))


def _crop(data: TrainingSet, voxels: int | None) -> tuple[int, int, int] | None:
    return None if voxels is None else plan_crop(data.prepared, (8, 8, 8), voxels)


if __name__ == "__main__":
    tyro.cli(Optimisers, description=__doc__).run()
