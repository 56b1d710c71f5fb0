"""Is the Dice that FM3D expects the Dice that comes? Presets on five sets: what was measured on the labelled volumes
alone, against the test volumes of benchmarks/few_shot_sets.py.

    python benchmarks/expected_dice.py --data ../shared/data --out expected_dice.jsonl
    python benchmarks/expected_dice.py --out expected_dice.jsonl --table
    python benchmarks/expected_dice.py --out expected_dice.jsonl --calibrate   # fm3d_core/teaching/calibration.yaml

Each row (set, k, preset, seed) is one training in stages; its versions, the linear probe and the last one, are both
measured. Budgets are core-seconds with one thread. Rows that are in --out are passed over. "inside" is the share of
test volumes whose Dice lies in the interval, which is meant to be 80 %. The figure to compare with is the Dice on the
training volumes themselves, which is what one sees without holding anything out. "by other sets" is what would be
expected with corrections (fm3d_core/teaching/calibration.yaml) that were fitted on the other sets alone.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
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
from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.evaluation import dice_per_label, mean_dice
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.teaching import teach
from fm3d_core.teaching.calibration import calibrated
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
        calibrate: print what the package's calibration should be, by what is in --out, and run nothing.
    """

    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: tuple[int, ...] = (1, 3)
    presets: tuple[str, ...] = ("fast",)
    seeds: tuple[int, ...] = (0,)
    out: Path = Path("expected_dice.jsonl")
    table: bool = False
    calibrate: bool = False

    def run(self) -> None:
        """Measure what is missing and print the table."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        rows = read_rows(self.out)
        if self.calibrate:
            print(json.dumps(calibration_of(rows), indent=1))  # noqa: T201
            return
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
            Console(highlight=False).print(*key, [_in_words(version, key[1]) for version in rows[-1]["versions"]])
        Console(width=145).print(table_of(rows))

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
                        "part": part_of(expected.how, adapter.card.training) if expected else None,
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


def part_of(how: str, training: Mapping[str, float]) -> float | None:
    """Of the stage's own time, what each training took that measured it ("..., 3 trainings of 10 s")."""
    found = re.search(r"trainings of (\d+) s", how)
    return min(int(found[1]) / training["seconds"], 1.0) if found and training.get("seconds") else None


def calibration_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of trained versions, from the figures before any correction.

    All are medians, of which a set unlike the others takes nothing. Slabs: of (1 - true) / (1 - measured), with the
    standard deviation of single test volumes around what it makes of the figure. Volumes: of the same per halving of
    the steps.
    """
    slabs, spread, halvings = [], [], []
    for row in rows:
        version = row["versions"][-1]
        measured, test = measured_of(version), np.array(version["test"])
        ratio = (1 - test.mean()) / (1 - measured)
        if row["shots"] == 1:
            slabs.append(ratio)
            spread.append((measured, test))
        elif (version.get("part") or 1) < 1:
            halvings.append(np.log(ratio) / -np.log2(version["part"]))
    factor = float(np.median(slabs))
    around = [float(np.mean((test - (1 - factor * (1 - measured))) ** 2)) for measured, test in spread]
    return {
        "slabs factor": round(factor, 3),
        "slabs spread": round(float(np.sqrt(np.mean(around))), 3),
        "volumes per_halving": round(float(np.exp(np.median(halvings))), 3),
        "trainings": len(rows),
    }


def measured_of(version: Mapping[str, Any]) -> float:
    """Mean Dice as it was measured, before any correction."""
    expected = version["expected"]
    return float(expected["mean"] if expected.get("measured") is None else expected["measured"])


def by_other_sets(row: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> float | None:
    """Dice of the last version as expected with corrections of the other sets; None where there are too few of them."""
    others = [each for each in rows if each["set"] != row["set"]]
    if len({(each["set"], each["shots"] == 1) for each in others}) < 4:
        return None
    fitted, version = calibration_of(others), row["versions"][-1]
    halvings = -np.log2(version.get("part") or 1.0)
    factor = fitted["slabs factor"] if row["shots"] == 1 else fitted["volumes per_halving"] ** halvings
    return float(1 - factor * (1 - measured_of(version)))


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a version; * became the active one."""
    columns = ("preset", "k", "set", "stage", "expected", "80 % interval", "true mean", "difference", "inside")
    table = Table(*columns, "by other sets", "on training volumes", title="Mean Dice")
    for row in sorted(rows, key=lambda row: (row["preset"], row["shots"], row["seed"])):
        for version in row["versions"]:
            stage = version["stage"] + ("*" if version["active"] else "")
            first = (row["preset"], str(row["shots"]), row["set"], stage)
            others = by_other_sets(row, rows) if version is row["versions"][-1] else None
            by_others = "" if others is None else f"{others:.3f}"
            on_training = f"{np.mean(version['training']):.3f}"
            table.add_row(*first, *_figures(version, row["shots"]), by_others, on_training)
    return table


def _figures(version: dict[str, Any], shots: int) -> list[str]:
    test = version["test"]
    if version["expected"] is None:
        return ["-", "", f"{np.mean(test):.3f}", "", ""]
    expected: ExpectedDice | None = ExpectedDice.from_dict(version["expected"])
    if expected is not None and expected.measured is None:  # a row from before the calibration
        expected = calibrated(expected, version["stage"], shots, version.get("part") or 1.0)
    assert expected is not None
    low, high = expected.low, expected.high
    interval = "" if low is None else f"{low:.2f} to {high:.2f}"
    inside = "" if low is None or high is None else f"{np.mean([low <= score <= high for score in test]):.0%}"
    difference = expected.mean - np.mean(test)
    return [f"{expected.mean:.3f}", interval, f"{np.mean(test):.3f}", f"{difference:+.3f}", inside]


def _in_words(version: dict[str, Any], shots: int) -> str:
    return " ".join((version["stage"], *_figures(version, shots)))


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
