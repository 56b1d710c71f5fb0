"""Is the quality that FM3D expects of a single new segmentation its true Dice? And how the estimate is fitted.

    python benchmarks/case_quality.py --data ../shared/data --runs RUNS                 # measures and prints the table
    python benchmarks/case_quality.py --data ../shared/data --runs RUNS --part fit      # writes quality_model.json

Each run trains an adapter on k volumes, holds them out in turn (k of two and more), segments further volumes, and keeps
the signals of each beside its true Dice in a file under RUNS; a run that is there already is not repeated.

Fitted on: hippocampus, left atrium, heart, lung tumour; trained on and segmented are volumes spread over the middle of
each set. A third of the segmented images is spoiled first, by noise and gamma or by standing upside down: a judge must
have seen failures.
Measured on: the volumes of benchmarks/default_backbones.py (training on the first, test on the last), which are none of
those, and two whole sets, abdomen CT and MR, of which nothing was fitted.

Peer, in the same run: the mean of the largest class probability over the voxels segmented, brought to Dice by a
straight line through the same volumes that the model was fitted on, with the same share of them inside its interval.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tyro
from default_backbones import SETS, RealSet, choose_training
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.size_prior import size_priors
from fm3d_core.evaluation import dice_per_label
from fm3d_core.evaluation.cross_validation import cross_validate
from fm3d_core.files import atomic_file
from fm3d_core.inference import Prediction, Predictor, References, references_of
from fm3d_core.inference.quality import judge
from fm3d_core.inference.quality_model import COVERAGE, FILE, QualityModel, fit_quality_model, quality_model
from fm3d_core.inference.quality_signals import Signals, signals_of
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Case, Volume, find_cases, read_label, read_label_names, read_volume

SIGNALS = ("confidence", "agreement", "stability", "size", "reverse", "expected", "expected_confidence")
FITTED_SETS = {
    **{name: SETS[name] for name in ("hippocampus", "la_mr", "acdc_mr")},
    "nsclc_ct": RealSet("other/nsclc_ct"),
}
SEGMENTED = 12  # volumes of each run that the model is fitted on
SPOILED, WAYS = 3, ("noise", "upside down")  # one in so many, and how


@dataclass(frozen=True)
class Run:
    """An adapter and what it is judged on.

    Attributes:
        purpose: "fit" or "test".
        name: of the set.
        shots: labelled volumes.
        method: of finetuning.
    """

    purpose: str
    name: str
    shots: int
    method: str = "full"

    @property
    def file(self) -> str:
        return f"{self.purpose}_{self.name}_k{self.shots}_{self.method}.json"


FIT = [Run("fit", name, shots) for shots in (3, 1) for name in FITTED_SETS]
FIT += [Run("fit", name, 3, "linear_probe") for name in FITTED_SETS]
TEST = [Run("test", name, 3) for name in SETS]
TEST += [Run("test", name, 1) for name in ("hippocampus", "la_mr", "chaos_mr_t2")]


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        runs: folder of the runs' files; a run that is there is not repeated.
        data: folder of the sets.
        part: measure on the test volumes, or fit the model and write it into the package.
        seconds: training budget of each adapter, core-seconds; held-out trainings take half.
        threads: of the processor.
        only: names of the sets to run; default: all.
    """

    runs: Path
    data: Path = Path("../shared/data")
    part: Literal["test", "fit"] = "test"
    seconds: float = 10
    threads: int = 1
    only: tuple[str, ...] = ()

    def run(self) -> None:
        """Measure and print, or fit."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        fitted = list(self._done(FIT))
        if self.part == "fit":
            model = fit(fitted)
            with atomic_file(FILE) as temporary:
                temporary.write_text(model.to_json() + "\n", encoding="utf-8")
            Console().print(f"{FILE}: widening {model.widening}, correlation in a volume {model.together}")
            return
        Console(width=150).print(table_of(list(self._done(TEST)), fitted))

    def _done(self, runs: Iterable[Run]) -> Iterable[dict[str, Any]]:
        """The records of all runs."""
        for run in runs:
            if self.only and run.name not in self.only:
                continue
            path = self.runs / run.file
            if not path.is_file():
                record = self._measure(run)
                with atomic_file(path) as temporary:
                    temporary.write_text(json.dumps(record), encoding="utf-8")
            yield json.loads(path.read_text(encoding="utf-8"))

    def _measure(self, run: Run) -> dict[str, Any]:
        source = FITTED_SETS[run.name] if run.purpose == "fit" else SETS[run.name]
        cases = [case for case in find_cases(self.data / source.folder, labelled=True) if case.label is not None]
        training, segmented = (
            chosen_for_fit(cases, source, run.shots) if run.purpose == "fit" else chosen(cases, source, run.shots)
        )
        assert not {case.name for case in training} & {case.name for case in segmented}
        labels = tuple(read_label_names(self.data / source.folder).values())
        task = SegmentationTask(labels)
        settings = FinetuneSettings(seconds=self.seconds, method=run.method, clock="cpu")
        learned = [LabeledCase(case.name, case.image, case.label) for case in training if case.label is not None]
        adapter = finetune(learned, task, settings)
        expected = cross_validate(learned, task, settings) if run.shots > 1 else None
        predictor = Predictor(replace(adapter, card=replace(adapter.card, expected_dice=expected)))
        references = references_of(predictor, learned)
        rows = []
        for number, case in enumerate(segmented):
            volume, truth, way = read_volume(case.image), read_label(case.label), "as it is"
            if run.purpose == "fit" and number % SPOILED == 0:
                way = WAYS[number // SPOILED % len(WAYS)]
                volume = spoiled(volume, number) if way == "noise" else upside_down(volume)
                truth = truth if way == "noise" else upside_down(truth)
            rows.append({"volume": case.name, "way": way, **row_of(predictor, volume, truth.array, references)})
        sizes = {name: list(values) for name, values in adapter.card.sizes.items()}
        return {
            "set": run.name,
            "k": run.shots,
            "method": run.method,
            "purpose": run.purpose,
            "sizes": sizes,
            "training": [case.name for case in training],
            "rows": rows,
        }


def chosen(cases: Sequence[Case], source: RealSet, shots: int) -> tuple[list[Case], list[Case]]:
    """The first volumes for training, the last for the test."""
    return choose_training(cases, source, shots), list(cases[-source.test :])


def chosen_for_fit(cases: Sequence[Case], source: RealSet, shots: int) -> tuple[list[Case], list[Case]]:
    """Volumes from the middle: none that figures train or test on, of patients evenly spread."""
    taken = {patient(case, source) for case in (*choose_training(cases, source, 5), *cases[-source.test :])}
    patients: dict[str, Case] = {}
    for case in cases:
        if patient(case, source) not in taken and read_label(case.label).array.any():
            patients.setdefault(patient(case, source), case)
    places = np.linspace(0, len(patients) - 1, shots + SEGMENTED).round().astype(int)
    picked = [list(patients.values())[place] for place in places]
    training = picked[:: len(picked) // shots][:shots]
    return training, [case for case in picked if case not in training]


def patient(case: Case, source: RealSet) -> str:
    """Who a volume is of; of hippocampus, two ids in a row are one subject."""
    if source.first:
        return str((int(case.name.rpartition("_")[2]) + 1) // 2)
    return "_".join(case.name.split("_")[: source.patient])


def spoiled(volume: Volume, seed: int) -> Volume:
    """With noise of a fifth to a half of the range of its intensities, and a gamma of 0.5 to 2."""
    random = np.random.default_rng(seed)
    low, high = np.percentile(volume.array, (1, 99))
    scaled = np.clip((volume.array - low) / max(high - low, 1e-6), 0, 1) ** np.exp(random.uniform(-0.7, 0.7))
    scaled += random.normal(0, random.uniform(0.2, 0.5), scaled.shape)
    return replace(volume, array=(scaled * (high - low) + low).astype(np.float32))


def upside_down(volume: Volume) -> Volume:
    """Image or label with head and feet exchanged."""
    return replace(volume, array=np.ascontiguousarray(volume.array[:, :, ::-1]))


def row_of(
    predictor: Predictor, volume: Volume, truth: npt.NDArray[np.uint8], references: References | None
) -> dict[str, Any]:
    """Signals, sizes, true Dice and the peer's figure of one volume."""
    start = time.process_time()
    prediction = predictor.predict(volume, variants=1)
    segmented = time.process_time()
    signals = signals_of(predictor, prediction, references, progress=ignore_progress, should_stop=never_stop)
    judged = time.process_time()
    dice = dice_per_label(prediction.labels, truth, predictor.card.task.labels)
    present = {name: value for name, value in dice.items() if (truth == predictor.card.task.values[name]).any()}
    return {
        "dice": present,
        "signals": {name: each.known() for name, each in signals.items()},
        "sizes": prediction.sizes,
        "confidence": mean_confidence(prediction),
        "seconds": [segmented - start, judged - segmented],
    }


def mean_confidence(prediction: Prediction) -> float:
    """Mean of the largest probability over the voxels that were segmented."""
    largest, classes = prediction.scores.softmax(0).max(0)
    return float(largest[classes > 0].mean()) if bool((classes > 0).any()) else 0.0


def fit(records: Sequence[dict[str, Any]], names: Sequence[str] = SIGNALS) -> QualityModel:
    """The joint distribution of Dice and signals over all structures that were found."""
    rows, cases = [], []
    volumes: dict[str, set[str]] = {}
    for record in records:
        volumes.setdefault(record["set"], set()).update(
            (*record["training"], *(row["volume"] for row in record["rows"]))
        )
        for row in record["rows"]:
            for structure, dice in row["dice"].items():
                if row["sizes"][structure] > 0:
                    known = row["signals"][structure]
                    rows.append([dice, *(known.get(name, math.nan) for name in names)])
                    cases.append(f"{record['set']} {record['k']} {record['method']} {row['volume']}")
    return fit_quality_model(
        ("dice", *names), np.array(rows), cases, {key: sorted(each) for key, each in volumes.items()}
    )


def table_of(records: Sequence[dict[str, Any]], fitted: Sequence[dict[str, Any]]) -> Table:
    """Correlation, error and coverage of ours and of the peer, per run."""
    line, margin = fit_peer(fitted)
    columns = ["set", "k", "n", "true Dice", "seconds"]
    columns += [name for figure in ("Spearman", "error", "inside", "width") for name in (figure, "peer")]
    table = Table(*columns, title="Expected Dice of single cases; peer: mean softmax confidence")
    for record in records:
        priors = size_priors(record["sizes"])
        true, values, inside, widths, peers, costs = [], [], [], [], [], []
        for row in record["rows"]:
            signals = {name: Signals(**each) for name, each in row["signals"].items()}
            quality = judge(signals, row["sizes"], priors, quality_model())
            true.append(float(np.mean(list(row["dice"].values()))))
            values.append(quality.value)
            inside.append(quality.low <= true[-1] <= quality.high)
            widths.append(quality.high - quality.low)
            peers.append(float(np.clip(np.polyval(line, row["confidence"]), 0, 1)))
            costs.append(row["seconds"][1])
        ours, other = np.abs(np.subtract(values, true)), np.abs(np.subtract(peers, true))
        figures = [record["set"], str(record["k"]), str(len(true)), f"{np.mean(true):.3f}", f"{np.mean(costs):.1f}"]
        figures += [f"{spearmanr(each, true).statistic:.2f}" for each in (values, peers)]
        figures += [f"{each.mean():.3f}" for each in (ours, other)]
        figures += [f"{np.mean(each):.0%}" for each in (inside, other <= margin)]
        table.add_row(*figures, f"{np.mean(widths):.2f}", f"{2 * margin:.2f}")
    return table


def fit_peer(records: Sequence[dict[str, Any]]) -> tuple[np.ndarray, float]:
    """A straight line from confidence to a case's Dice, and the distance from it that holds 80 % of the cases."""
    pairs = [
        (row["confidence"], float(np.mean(list(row["dice"].values())))) for each in records for row in each["rows"]
    ]
    confidence, dice = np.array(pairs).T
    line = np.polyfit(confidence, dice, 1)
    return line, float(np.quantile(np.abs(np.polyval(line, confidence) - dice), COVERAGE))


def main(benchmark: Benchmark) -> None:
    """Measure."""
    benchmark.run()


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
