"""Views at test time: mean Dice and core-seconds of one adapter with 1, 4 and 8 views a volume.

    python benchmarks/views.py --data ../shared/data --set hippocampus --shots 1 --seconds 60

The peer is the same network on the volume as it is (1 view). Sets and volumes: few_shot_sets.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from few_shot_sets import split
from rich.console import Console

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.evaluation import dice_per_label
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_label, read_volume

COUNTS = (1, 4, 8)


@dataclass(frozen=True)
class Views:
    """What is measured.

    Attributes:
        data: folder of the sets.
        set: name in few_shot_sets.py.
        shots: labelled volumes.
        seconds: of training.
        seed: of volumes and training.
    """

    data: Path = Path("../shared/data")
    set: str = "hippocampus"
    shots: int = 1
    seconds: float = 60
    seed: int = 0

    def run(self) -> None:
        """Train once, then segment the test volumes each way."""
        console = Console(highlight=False)
        volumes = split(self.data, self.set, self.shots, self.seed)
        values = {name: value for value, name in enumerate(volumes.labels, start=1)}
        cases = [LabeledCase(case.name, case.image, case.label, values) for case in volumes.training if case.label]
        settings = FinetuneSettings(seconds=self.seconds, seed=self.seed, clock="cpu")
        adapter = finetune(cases, SegmentationTask(volumes.labels), settings)
        plain: list[float] = []
        for count in COUNTS:
            predictor, start, scores = Predictor(adapter, views=count), time.process_time(), []
            for case in volumes.test:
                assert case.label is not None
                found = predictor.segment(read_volume(case.image))
                dice = dice_per_label(found, read_label(case.label).array, volumes.labels)
                scores.append(float(np.nanmean(list(dice.values()))))
            spent = (time.process_time() - start) / len(scores)
            plain = plain or scores
            gained = np.subtract(scores, plain)
            console.print(
                f"{count} views: Dice {np.mean(scores):.4f}, {spent:.2f} core-s a volume, "
                f"gain {gained.mean():+.4f} ± {gained.std() / len(gained) ** 0.5:.4f}"
            )


if __name__ == "__main__":
    tyro.cli(Views, description=__doc__).run()
