"""Is the Dice that FM3D expects the Dice that comes? Presets on five sets: what was measured on the labelled volumes
alone, against the test volumes of benchmarks/few_shot_sets.py.

    python benchmarks/expected_dice.py --data ../shared/data --out expected_dice.jsonl
    python benchmarks/expected_dice.py --out expected_dice.jsonl --table

Each row (set, k, preset, seed) is one training in stages; its versions, the linear probe and the last one, are both
measured. Budgets are core-seconds with one thread. Rows that are in --out are passed over. "inside" is the share of
test volumes whose Dice lies in the interval, which is meant to be 80 %. The figure to compare with is the Dice on the
training volumes themselves, which is what one sees without holding anything out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from few_shot import read_rows
from few_shot_sets import SETS, Split, split
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation import Adapter, AdapterStore, FinetuneSettings, LabeledCase
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import teach
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Case, read_label, read_volume


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the sets.
        sets: which of them.
        shots: numbers of labelled volumes.
        presets: of training.
        seeds: of the volumes drawn and of training.
        out: JSON lines, one a row.
        table: print the table of what is in --out and run nothing.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: tuple[int, ...] = (1, 3)
    presets: tuple[str, ...] = ("fast",)
    seeds: tuple[int, ...] = (0,)
    out: Path = Path("expected_dice.jsonl")
    table: bool = False

    def run(self) -> None:
        """Measure what is missing and print the table."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        rows = read_rows(self.out)
        done = {(row["set"], row["shots"], row["preset"], row["seed"]) for row in rows}
        keys = [
            (name, shots, preset, seed)
            for preset in self.presets
            for seed in self.seeds
            for shots in self.shots
            for name in self.sets
        ]
        for key in () if self.table else keys:
            if key in done:
                continue
            rows.append(self._measure(*key))
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            Console(highlight=False).print(*key, [_in_words(version) for version in rows[-1]["versions"]])
        Console(width=130).print(table_of(rows))

    def _measure(self, name: str, shots: int, preset: str, seed: int) -> dict[str, Any]:
        volumes = split(self.data, name, shots, seed)
        cases = [LabeledCase(case.name, case.image, case.label) for case in volumes.training if case.label is not None]
        settings = FinetuneSettings(preset=preset, seed=seed, clock="cpu")
        with tempfile.TemporaryDirectory() as folder:
            store = AdapterStore(folder)
            taught = teach(cases, SegmentationTask(volumes.labels), settings, store)
            versions = []
            for version in taught.versions:
                adapter = store.load(version.version)
                expected = version.expected_dice
                versions.append(
                    {
                        "stage": version.stage,
                        "seconds": round(version.seconds, 1),
                        "active": version.active,
                        "why": version.why,
                        "expected": None if expected is None else asdict(expected),
                        "test": scores_of(adapter, volumes.test, volumes),
                        "training": scores_of(adapter, volumes.training, volumes),
                    }
                )
        return {"set": name, "shots": shots, "preset": preset, "seed": seed, "versions": versions}


def scores_of(adapter: Adapter, cases: Sequence[Case], volumes: Split) -> list[float]:
    """Mean Dice of each case over the structures it has."""
    predictor, scores = Predictor(adapter), []
    for case in cases:
        assert case.label is not None
        truth = read_label(case.label).array
        dice = dice_per_label(predictor.segment(read_volume(case.image)), truth, volumes.labels)
        scores.append(mean_dice({name: dice[name] for i, name in enumerate(dice, 1) if (truth == i).any()}))
    return scores


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a version."""
    columns = ("preset", "k", "set", "stage", "expected", "80 % interval", "true mean", "difference", "inside")
    table = Table(*columns, "on training volumes", title="Mean Dice")
    for row in sorted(rows, key=lambda row: (row["preset"], row["shots"], row["seed"])):
        for version in row["versions"]:
            first = (row["preset"], str(row["shots"]), row["set"], version["stage"])
            table.add_row(*first, *_figures(version), f"{np.mean(version['training']):.3f}")
    return table


def _figures(version: dict[str, Any]) -> list[str]:
    expected, test = version["expected"], version["test"]
    if expected is None:
        return ["-", "", f"{np.mean(test):.3f}", "", ""]
    low, high = expected["low"], expected["high"]
    interval = "" if low is None else f"{low:.2f} to {high:.2f}"
    inside = "" if low is None else f"{np.mean([low <= score <= high for score in test]):.0%}"
    difference = expected["mean"] - np.mean(test)
    return [f"{expected['mean']:.3f}", interval, f"{np.mean(test):.3f}", f"{difference:+.3f}", inside]


def _in_words(version: dict[str, Any]) -> str:
    return " ".join((version["stage"], *_figures(version)))


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
