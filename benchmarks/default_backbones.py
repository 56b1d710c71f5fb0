"""Few-shot Dice on real volumes: the weights that come with FM3D beside the same network with random weights.

    python benchmarks/default_backbones.py --data ../shared/data --out default_backbones.jsonl
    python benchmarks/default_backbones.py --out default_backbones.jsonl --picture docs/shipped_weights.png --table

Everything but the weights is the same: volumes, steps (or --seconds), method, seed. None of the volumes was used for
the weights: those were made from made-up anatomies only (fm3d_core/models/weights/shipped/MODEL_CARD.md). Training: the
first k volumes in order of name, of different patients; test: the last 20 of hippocampus and the last 8 of the others,
as in ../shared/specs/few_shot_anchor.md. Dice is the mean over the structures that a test volume has, on its own grid,
without post-processing. The standard error is of the mean difference over the test volumes; of several seeds each
volume's Dice is averaged first. Each row (set, k, weights, seed) is appended to --out, rows that are there are passed
over.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from few_shot import append, read_rows
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
        weights: what is compared, the first against each of the others: "random", "random:BACKBONE", an id or a file.
        shots: numbers of labelled volumes.
        steps: of each training.
        seconds: a training budget instead.
        method: of finetuning.
        seeds: runs of each.
        threads: of the processor.
        out: JSON lines, one a row, with the Dice of each test volume.
        table: print the table of what is in --out and run nothing.
        picture: a PNG of the same to draw.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    weights: tuple[str, ...] = ("random", "fm3d_small")
    shots: tuple[int, ...] = (1, 3)
    steps: int = 100
    seconds: float | None = None
    method: str = "full"
    seeds: tuple[int, ...] = (0,)
    threads: int = 2
    out: Path = Path("default_backbones.jsonl")
    table: bool = False
    picture: Path | None = None

    @property
    def budget(self) -> str:
        """In words; rows of another one are not mixed in."""
        return f"{self.steps} steps" if self.seconds is None else f"{self.seconds:g} s"

    def run(self) -> None:
        """Measure what is missing, print the table and draw the picture."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        console = Console(width=130)
        if not self.table:
            self._measure_missing(console)
        scores = self.scores()
        console.print(self._table_of(scores))
        if self.picture is not None:
            from default_backbones_picture import draw

            draw(scores, self.weights[:2], f"{self.budget} of training, {len(self.seeds)} seed(s)", self.picture)

    def scores(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """(set, k) -> weights -> Dice of each test volume, mean over the seeds that are there, from --out."""
        found: dict[tuple[str, int], dict[str, list[list[float]]]] = {}
        for row in read_rows(self.out):
            if row["budget"] == self.budget and row["method"] == self.method and row["seed"] in self.seeds:
                found.setdefault((row["set"], row["k"]), {}).setdefault(row["weights"], []).append(row["dice"])
        wanted = [key for key in itertools.product(self.sets, self.shots) if key in found]
        return {key: {name: np.mean(rows, axis=0) for name, rows in found[key].items()} for key in wanted}

    def _measure_missing(self, console: Console) -> None:
        names = ("set", "k", "seed", "weights", "budget", "method")
        done = {tuple(row[name] for name in names) for row in read_rows(self.out)}
        for key in itertools.product(self.sets, self.shots, self.seeds, self.weights):
            whole_key = (*key, self.budget, self.method)
            if whole_key in done:
                continue
            name, shots, seed, weights = key
            dice = self._dice(SETS[name], shots, weights, seed)
            row: dict[str, Any] = dict(zip(names, whole_key, strict=True)) | {"dice": dice}
            append(self.out, row)
            console.print(*key, f"{np.mean(dice):.3f}", highlight=False)

    def _table_of(self, scores: dict[tuple[str, int], dict[str, np.ndarray]]) -> Table:
        table = Table("set", "k", *self.weights, "difference", title=f"Mean Dice after {self.budget}, {self.method}")
        first, *others = self.weights
        for (name, shots), found in scores.items():
            means = [f"{found[weights].mean():.3f}" if weights in found else "" for weights in self.weights]
            both = [(found[first], found[other]) for other in others if first in found and other in found]
            table.add_row(name, str(shots), *means, ", ".join(_difference(*pair) for pair in both))
        return table

    def _dice(self, source: RealSet, shots: int, weights: str, seed: int) -> list[float]:
        """Of each test volume."""
        cases = find_cases(self.data / source.folder, labelled=True)
        labels = tuple(read_label_names(self.data / source.folder).values())
        training = choose_training(cases, source, shots)
        assert not {case.name for case in training} & {case.name for case in cases[-source.test :]}
        labelled = [LabeledCase(case.name, case.image, case.label) for case in training if case.label is not None]
        word, _, backbone = weights.partition(":")
        chosen = Path(word if word == "random" else weights)
        settings = FinetuneSettings(
            method=self.method,
            backbone=backbone or None if word == "random" else None,
            weights=chosen,
            seconds=self.seconds or 30.0,
            steps=self.steps if self.seconds is None else None,
            seed=seed,
        )
        predictor = Predictor(finetune(labelled, SegmentationTask(labels), settings), keep_islands=True)
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
