"""Is the Dice that FM3D expects the Dice that comes? Held-out labelled volumes against the test volumes of five sets.

    python benchmarks/expected_dice.py --data ../shared/data

For each set: train on the first k volumes, hold each of them out in turn (fm3d finetune --cross-validate), and segment
the test volumes of benchmarks/default_backbones.py, which neither has seen. "inside" is the share of test volumes whose
Dice lies in the interval, which is meant to be 80 %. The figure to compare with is the Dice on the training volumes
themselves, which is what one sees without holding anything out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from default_backbones import SETS, choose_training
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.evaluation.cross_validation import cross_validate
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import find_cases, read_label, read_label_names, read_volume


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        shots: number of labelled volumes.
        seconds: training budget; each volume held out takes half of it again.
        threads: of the processor.
        out: a JSON file for the figures.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: int = 3
    seconds: float = 60
    threads: int = 2
    out: Path | None = None

    def run(self) -> None:
        """Measure and print the table."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        columns = ("set", "expected", "80 % interval", "true mean", "difference", "inside", "on training volumes")
        title = f"Mean Dice, k = {self.shots}, {self.seconds:g} s of training"
        table, rows, console = Table(*columns, title=title), [], Console(width=120)
        for name in self.sets:
            row = self._measure(name)
            rows.append(row)
            table.add_row(
                name,
                f"{row['expected']:.3f}",
                f"{row['low']:.2f} to {row['high']:.2f}",
                f"{np.mean(row['test']):.3f}",
                f"{row['expected'] - np.mean(row['test']):+.3f}",
                f"{np.mean([row['low'] <= score <= row['high'] for score in row['test']]):.0%}",
                f"{np.mean(row['training']):.3f}",
            )
            console.print(table)
        if self.out is not None:
            self.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")

    def _measure(self, name: str) -> dict[str, object]:
        source = SETS[name]
        found = find_cases(self.data / source.folder, labelled=True)
        cases = [LabeledCase(case.name, case.image, case.label) for case in found if case.label is not None]
        names = {case.name for case in choose_training(found, source, self.shots)}
        learned = [case for case in cases if case.name in names]
        task = SegmentationTask(tuple(read_label_names(self.data / source.folder).values()))
        settings = FinetuneSettings(seconds=self.seconds)
        predictor = Predictor(finetune(learned, task, settings))
        expected = cross_validate(learned, task, settings)
        assert expected is not None
        return {
            "set": name,
            "expected": expected.mean,
            "low": expected.low,
            "high": expected.high,
            "test": scores_of(predictor, cases[-source.test :]),
            "training": scores_of(predictor, learned),
        }


def scores_of(predictor: Predictor, cases: Sequence[LabeledCase]) -> list[float]:
    """Mean Dice of each case over the structures it has."""
    scores = []
    for case in cases:
        truth = read_label(case.label).array
        dice = dice_per_label(predictor.segment(read_volume(case.image)), truth, predictor.card.task.labels)
        present = {name: dice[name] for i, name in enumerate(dice, 1) if (truth == i).any()}
        scores.append(mean_dice(present))
    return [score for score in scores if not math.isnan(score)]


def main(benchmark: Benchmark) -> None:
    """Measure."""
    benchmark.run()


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
