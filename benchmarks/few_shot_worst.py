"""The best, the middle and the worst test volume of each set as a picture, as benchmarks/few_shot.py measures FM3D.

    python benchmarks/few_shot_worst.py --data ../shared/data --out docs/few_shot

Training and volumes are those of the row (set, k, seed 0, fm3d, 60 core-seconds); training stops by the clock, so the
figures may differ from the row's in the second digit. Each set gives one PNG: image, truth, prediction, in the slice
with the largest truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from few_shot_fm3d import train
from few_shot_row import Row
from few_shot_sets import SETS, Split, split
from rich.console import Console

from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.evaluation.pictures import ComparisonRow, draw_comparison
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import read_label, read_volume


@dataclass(frozen=True)
class Pictures:
    """What is drawn.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        shots: number of labelled volumes.
        budget: core-seconds of training.
        out: folder of the pictures; a set that has one there is passed over.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: int = 3
    budget: float = 60.0
    out: Path = Path("docs/few_shot")

    def run(self) -> None:
        """Train, segment and draw set by set."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        self.out.mkdir(parents=True, exist_ok=True)
        for name in self.sets:
            path = self.out / f"{name}.png"
            if path.exists():
                continue
            volumes = split(self.data, name, self.shots, 0)
            row = Row(name, self.shots, 0, "fm3d", self.budget, self.data, Path())
            shown = rows_of(row, volumes)
            draw_comparison(path, shown, volumes.labels)
            Console().print(name, [(each.name, round(mean_dice(each.dice), 3)) for each in shown], highlight=False)


def rows_of(row: Row, volumes: Split) -> list[ComparisonRow]:
    """The best, the middle and the worst test volume."""
    trained = train(row, volumes)
    found = []
    for case in volumes.test:
        assert case.label is not None
        truth, image = read_label(case.label).array, read_volume(case.image)
        predicted = np.asarray(trained.segment(case))
        dice = dice_per_label(predicted, truth, volumes.labels)
        present = {name: dice[name] for value, name in enumerate(volumes.labels, 1) if (truth == value).any()}
        found.append(ComparisonRow(case.name, image.array, truth, predicted, image.spacing, present))
    found.sort(key=lambda each: -mean_dice(each.dice))
    return [found[0], found[len(found) // 2], found[-1]]


if __name__ == "__main__":
    tyro.cli(Pictures, description=__doc__).run()
