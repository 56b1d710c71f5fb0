"""Few-shot Dice on real volumes: the weights that come with FM3D beside the same network with random weights.

    python benchmarks/default_backbones.py --data ../shared/data

Everything but the weights is the same: volumes, seconds (or --steps), method, seed. None of the volumes was used for
the weights: those were made from made-up anatomies only (fm3d_core/models/weights/shipped/MODEL_CARD.md). Training: the
first k volumes in order of name, of different patients; test: the last 20 of hippocampus and the last 8 of the others,
as in ../shared/specs/few_shot_anchor.md. Dice is the mean over the structures that a test volume has, on its own grid,
without post-processing. The standard error is of the mean difference over the test volumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.evaluation import dice_per_label
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Case, find_cases, read_label, read_label_names, read_volume


@dataclass(frozen=True)
class RealSet:
    """A labelled set.

    Attributes:
        folder: below the data folder.
        test: how many of the last volumes are tested on.
        patient: so many parts of a name, between underscores, name the patient.
        first: names (their last part) of the volumes to train on, in place of the first ones: in hippocampus two ids in
            a row are one subject.
    """

    folder: str
    test: int = 8
    patient: int = 99
    first: tuple[str, ...] = ()


SETS = {
    "hippocampus": RealSet("hippocampus", test=20, first=("001", "003", "007", "011", "015")),
    "btcv_ct": RealSet("abdomen/btcv_ct"),
    "chaos_mr_t2": RealSet("abdomen/chaos_mr_t2"),
    "la_mr": RealSet("other/la_mr"),
    "acdc_mr": RealSet("other/acdc_mr", patient=1),
}


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        weights: what is compared, the first against each of the others: "random", an id or a file.
        shots: numbers of labelled volumes.
        seconds: training budget of each run.
        steps: a number of steps instead.
        method: of finetuning.
        seeds: runs of each.
        threads: of the processor.
        out: a JSON file for the figures, each test volume's included.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    weights: tuple[str, ...] = ("random", "fm3d_small")
    shots: tuple[int, ...] = (1, 3)
    seconds: float = 30
    steps: int | None = None
    method: str = "full"
    seeds: int = 1
    threads: int = 2
    out: Path | None = None

    def run(self) -> None:
        """Measure and print the table."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        budget = f"{self.steps} steps" if self.steps else f"{self.seconds:g} s"
        table = Table("set", "k", *self.weights, "difference", title=f"Mean Dice after {budget}, {self.method}")
        rows, console = [], Console()
        for name in self.sets:
            for shots in self.shots:
                scores = [
                    np.mean([self._dice(SETS[name], shots, weights, seed) for seed in range(self.seeds)], axis=0)
                    for weights in self.weights
                ]  # each (test volumes,)
                rows.append({"set": name, "k": shots} | dict(zip(self.weights, map(list, scores), strict=True)))
                differences = [_difference(scores[0], other) for other in scores[1:]]
                table.add_row(name, str(shots), *(f"{each.mean():.3f}" for each in scores), ", ".join(differences))
                console.print(table)
        if self.out is not None:
            self.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")

    def _dice(self, source: RealSet, shots: int, weights: str, seed: int) -> list[float]:
        """Of each test volume."""
        cases = find_cases(self.data / source.folder, labelled=True)
        labels = tuple(read_label_names(self.data / source.folder).values())
        training = choose_training(cases, source, shots)
        assert not {case.name for case in training} & {case.name for case in cases[-source.test :]}
        labelled = [LabeledCase(case.name, case.image, case.label) for case in training if case.label is not None]
        settings = FinetuneSettings(
            method=self.method, weights=Path(weights), seconds=self.seconds, steps=self.steps, seed=seed
        )
        predictor = Predictor(finetune(labelled, SegmentationTask(labels), settings))
        scores = []
        for case in cases[-source.test :]:
            assert case.label is not None
            truth = read_label(case.label).array
            dice = dice_per_label(predictor.segment(read_volume(case.image)), truth, labels)
            present = [dice[label] for index, label in enumerate(labels, 1) if (truth == index).any()]
            scores.append(float(np.mean(present)))
        return scores


def choose_training(cases: Sequence[Case], source: RealSet, shots: int) -> list[Case]:
    """The first volume of each of the first patients."""
    if source.first:
        named = {case.name.rpartition("_")[2]: case for case in cases}
        return [named[number] for number in source.first[:shots]]
    patients: dict[str, Case] = {}
    for case in cases:
        patients.setdefault("_".join(case.name.split("_")[: source.patient]), case)
    return list(patients.values())[:shots]


def _difference(first: np.ndarray, other: np.ndarray) -> str:
    change = np.asarray(other) - np.asarray(first)
    return f"{change.mean():+.3f} ± {change.std(ddof=1) / len(change) ** 0.5:.3f}"


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
