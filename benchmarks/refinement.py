"""Does it help to adapt the head to a volume whose structures have an unusual size? Dice before and after, real sets.

    python benchmarks/refinement.py --data ../shared/data --runs RUNS

Training on the first k volumes, test on the last, as in benchmarks/default_backbones.py. Only volumes in which a
structure's size is more than 30 % off are refined; the table says how many, and the mean change of their Dice with its
standard error. "oracle": the volume's true sizes in place of the mean of the labelled ones, to see how much of the
result is due to the prior and how much to the method. A set that is in RUNS already is not repeated.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from default_backbones import SETS, choose_training
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.evaluation import dice_per_label
from fm3d_core.files import atomic_file
from fm3d_core.inference import Prediction, Predictor, RefinementSettings, refine
from fm3d_core.inference.prediction import sizes_in_ml
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import find_cases, read_label, read_label_names, read_volume


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        runs: folder of the sets' files.
        data: folder of the sets.
        sets: which of them.
        shots: labelled volumes.
        seconds: training budget, core-seconds.
        weights: of the penalty; FSEFT's is 0.1.
        threads: of the processor.
    """

    runs: Path
    data: Path = Path("../shared/data")
    sets: tuple[str, ...] = tuple(SETS)
    shots: int = 3
    seconds: float = 20
    weights: tuple[float, ...] = (0.1, 1, 10)
    threads: int = 1

    def run(self) -> None:
        """Measure and print."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        columns = ("set", "prior", "weight", "refined", "Dice before", "change", "better", "worse", "seconds")
        table = Table(*columns, title=f"Refinement with the size prior, k = {self.shots}")
        for name in self.sets:
            path = self.runs / f"refinement_{name}_k{self.shots}.json"
            if not path.is_file():
                rows = self._measure(name)
                with atomic_file(path) as temporary:
                    temporary.write_text(json.dumps(rows), encoding="utf-8")
            rows = json.loads(path.read_text(encoding="utf-8"))
            for prior in ("labelled", "oracle"):
                for weight in self.weights:
                    chosen = [row for row in rows if (row["prior"], row["weight"]) == (prior, weight)]
                    table.add_row(name, prior, f"{weight:g}", *_figures(chosen))
        Console(width=120).print(table)

    def _measure(self, name: str) -> list[dict[str, Any]]:
        source = SETS[name]
        cases = [case for case in find_cases(self.data / source.folder, labelled=True) if case.label is not None]
        training = choose_training(cases, source, self.shots)
        labels = tuple(read_label_names(self.data / source.folder).values())
        learned = [LabeledCase(case.name, case.image, case.label) for case in training if case.label is not None]
        adapter = finetune(learned, SegmentationTask(labels), FinetuneSettings(seconds=self.seconds, clock="cpu"))
        predictor = Predictor(adapter)
        rows = []
        for case in cases[-source.test :]:
            volume = read_volume(case.image)
            prediction = predictor.predict(volume)
            assert case.label is not None
            truth = read_label(case.label).array
            true = sizes_in_ml(truth, prediction.voxel_ml, adapter.card.task.values)
            for prior, sizes in (("labelled", adapter.card.sizes), ("oracle", {n: (ml,) for n, ml in true.items()})):
                predictor.card = replace(adapter.card, sizes=sizes)
                for weight in self.weights:
                    row = _refined(predictor, prediction, truth, weight)
                    rows.append({"volume": case.name, "prior": prior, "weight": weight, **row})
        return rows


def _refined(
    predictor: Predictor, prediction: Prediction, truth: npt.NDArray[np.uint8], weight: float
) -> dict[str, Any]:
    start = time.monotonic()
    refined = refine(predictor, prediction, settings=RefinementSettings(weight=weight))
    seconds = time.monotonic() - start
    before, after = (_dice(each, truth, predictor) for each in (prediction, refined.prediction))
    return {"steps": refined.steps, "changed": refined.changed, "before": before, "after": after, "seconds": seconds}


def _dice(prediction: Prediction, truth: npt.NDArray[np.uint8], predictor: Predictor) -> float:
    """Mean over the structures that the volume has."""
    dice = dice_per_label(prediction.labels, truth, predictor.card.task.labels)
    values = predictor.card.task.values
    return float(np.mean([each for name, each in dice.items() if (truth == values[name]).any()]))


def _figures(rows: list[dict[str, Any]]) -> list[str]:
    refined = [row for row in rows if row["steps"]]
    if not refined:
        return [f"0 of {len(rows)}", "", "", "", "", ""]
    change = np.array([row["after"] - row["before"] for row in refined])
    error = change.std(ddof=1) / len(change) ** 0.5 if len(change) > 1 else float("nan")
    return [
        f"{len(refined)} of {len(rows)}",
        f"{np.mean([row['before'] for row in refined]):.3f}",
        f"{change.mean():+.4f} ± {error:.4f}",
        str(int((change > 0).sum())),
        str(int((change < 0).sum())),
        f"{np.mean([row['seconds'] for row in refined]):.1f}",
    ]


def main(benchmark: Benchmark) -> None:
    """Measure."""
    benchmark.run()


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
