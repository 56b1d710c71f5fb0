"""Whole volumes: the shipped weights against random ones, image statistics and, for survival, tumour volume.

    python benchmarks/tasks.py --data ../shared/data

Each question of two real sets is answered by the same linear probe (one layer on standardised features, AdamW, the
task's own loss) on features of the network's coarsest map, or on statistics of the image's intensities. Every case is
predicted by a probe that has not seen it (5 folds); intervals are 95 % of 2000 bootstrap samples over the cases. What
comes from the labels, which the networks do not see, shows what could be known: for survival the tumour's volume and
longest diameter as they are, for hearts the same probe on the volumes of the three structures.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation.image_batches import cut
from fm3d_core.errors import CaseError
from fm3d_core.models.image_heads import pooled_features
from fm3d_core.models.weights.importing import choose_weights
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import ClassificationTask, RegressionTask, SurvivalTask, WholeVolumeTask
from fm3d_core.tasks.metrics import concordance_index
from fm3d_core.volumes import Preprocessing, read_volume

FOLDS, BOOTSTRAPS = 5, 2000
STEPS, RATE = 300, 3e-3
DECAYS = (0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Question:
    """A task on a set: which table, how volumes are prepared, and the figure that is told."""

    name: str
    folder: str
    table: str
    task: WholeVolumeTask
    figure: str
    preprocessing: Preprocessing
    crop: tuple[int, int, int]
    suffix: str = ""
    structures: tuple[int, ...] = ()


LUNG = (Preprocessing(window=(-1000, 400), crop_foreground=False), (48, 48, 48))
HEART = (Preprocessing(size=(96, 96, 16), crop_foreground=False), (96, 96, 16))
QUESTIONS = (
    Question(
        "survival, lung cancer (CT)",
        "nsclc_ct",
        "clinical.csv",
        SurvivalTask(bins=4, time_column="survival_days"),
        "c_index",
        *LUNG,
    ),
    Question(
        "histology, 4 classes (CT)",
        "nsclc_ct",
        "clinical.csv",
        ClassificationTask(("Adenocarcinoma", "SquamousCellCarcinoma", "LargeCell", "Nos"), "histology"),
        "auc",
        *LUNG,
    ),
    Question("age, years (CT)", "nsclc_ct", "clinical.csv", RegressionTask("age"), "mae", *LUNG),
    Question(
        "diagnosis, 5 classes (cine MR)",
        "acdc_mr",
        "patients.csv",
        ClassificationTask(("DCM", "HCM", "MINF", "NOR", "RV"), "group"),
        "auc",
        *HEART,
        "_ED",
        (1, 2, 3),
    ),
    Question(
        "ejection fraction (cine MR)",
        "acdc_mr",
        "patients.csv",
        RegressionTask("ejection_fraction"),
        "mae",
        *HEART,
        "_ED",
        (1, 2, 3),
    ),
)


@dataclass(frozen=True)
class Tasks:
    """What is measured.

    Attributes:
        data: folder of the sets.
        out: rows are added to this file.
        most: cases of a set; default: all.
        threads: of torch.
    """

    data: Path = Path("../shared/data")
    out: Path = Path("benchmarks/results/tasks.jsonl")
    most: int | None = None
    threads: int = 1


def main(options: Tasks) -> None:
    """Answer every question from every kind of features, and print the table."""
    torch.set_num_threads(options.threads)
    console, kept = Console(), {}
    table = Table(title="Whole volumes, 5-fold, 95 % interval of 2000 bootstrap samples")
    for column in ("question", "cases", "figure", "features", "value", "interval", "core-s"):
        table.add_column(column)
    for question in QUESTIONS:
        folder = options.data / "other" / question.folder
        names, targets, rows = _cases(question, folder, options.most)
        features = {}
        for kind in ("fm3d_small", "random", "statistics", *(("structure volumes",) if question.structures else ())):
            vectors = kept.setdefault((question.folder, kind), {})
            begun = time.process_time()
            for name in names:
                if name not in vectors:
                    vectors[name] = _vector(kind, question, folder, f"{name}{question.suffix}.nii.gz")
            features[kind] = torch.stack([vectors[name] for name in names]), time.process_time() - begun
        for kind, (vectors, seconds) in features.items():
            answers, truth = _out_of_fold(question.task, vectors, targets)
            value, low, high = _with_interval(question, answers, truth)
            _tell(options, table, question, kind, len(names), (value, low, high), seconds)
        if isinstance(question.task, SurvivalTask):
            truth = np.array(targets)
            for column in ("tumour_mm3", "max_diameter_mm"):
                risk = np.array([float(row[column]) for row in rows])
                figures = _bootstrapped(
                    lambda chosen, risk=risk, truth=truth: concordance_index(
                        risk[chosen], truth[chosen, 0], truth[chosen, 1] > 0
                    ),
                    len(risk),
                )
                _tell(options, table, question, column, len(names), figures, 0.0)
    console.print(table)


def _cases(question: Question, folder: Path, most: int | None) -> tuple[list[str], list[tuple[float, ...]], list[dict]]:
    """Names, targets and rows of the cases whose answer is known."""
    names, targets, rows = [], [], []
    with (folder / question.table).open(encoding="utf-8") as file:
        for row in list(csv.DictReader(file))[:most]:
            name = row.get("id") or row["patient"]
            if not (folder / "images" / f"{name}{question.suffix}.nii.gz").is_file():
                continue
            try:
                targets.append(question.task.read_target(row))
            except CaseError:
                continue
            names.append(name)
            rows.append(row)
    return names, targets, rows


def _vector(kind: str, question: Question, folder: Path, file: str) -> torch.Tensor:
    if kind == "structure volumes":
        label = read_volume(folder / "labels" / file)
        voxel = float(np.prod(label.spacing)) / 1000  # ml
        return torch.tensor([float((label.array == value).sum()) * voxel for value in question.structures])
    volume = read_volume(folder / "images" / file)
    if kind == "statistics":
        values = np.percentile(volume.array, (1, 5, 10, 25, 50, 75, 90, 95, 99))
        return torch.tensor([*values, volume.array.mean(), volume.array.std(), *volume.shape], dtype=torch.float32)
    image = cut(question.preprocessing.prepare(volume).image, question.crop)[None]
    with torch.inference_mode():
        return pooled_features(_backbone(kind), image, layers=2)[0].clone()


_BACKBONES: dict[str, object] = {}


def _backbone(kind: str) -> object:
    if kind not in _BACKBONES:
        preset, weights = choose_weights(kind, "residual_unet_small", 1)
        _BACKBONES[kind] = create_backbone(BackboneSpec(preset, weights=weights))
    return _BACKBONES[kind]


def _out_of_fold(
    task: WholeVolumeTask, vectors: torch.Tensor, targets: Sequence[tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """What probes say of the cases that they did not learn from."""
    order = np.random.default_rng(0).permutation(len(targets))
    if isinstance(task, ClassificationTask):  # as many of each class in every fold
        order = order[np.argsort(np.array(targets)[order, 0], kind="stable")]
    answers = np.zeros((len(targets), task.classes))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.random.default_rng(fold).permutation(order[~np.isin(order, held)])
        answers[held] = _probed(task, vectors, targets, rest, held)
    return answers, np.array(targets)


def _probed(
    task: WholeVolumeTask,
    vectors: torch.Tensor,
    targets: Sequence[tuple[float, ...]],
    rest: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """The weight decay has the lowest loss on a quarter of the cases to learn from; the probe then learns from all."""
    fitted = task.fit([targets[index] for index in rest])
    mean, deviation = vectors[rest].mean(0), vectors[rest].std(0) + 1e-4
    design, truth = (vectors - mean) / deviation, torch.tensor(targets, dtype=torch.float32)
    loss, inner, kept = fitted.loss(), rest[len(rest) // 4 :], rest[: len(rest) // 4]

    def lost(decay: float) -> float:
        probe = _learned(design[inner], truth[inner], task.classes, loss, decay)
        with torch.inference_mode():
            return float(loss(probe(design[kept]), truth[kept], None))

    probe = _learned(design[rest], truth[rest], task.classes, loss, min(DECAYS, key=lost))
    with torch.inference_mode():
        return fitted.activate(probe(design[held])).numpy()


def _learned(design: torch.Tensor, truth: torch.Tensor, outputs: int, loss, decay: float) -> torch.nn.Linear:  # type: ignore[no-untyped-def]
    probe = torch.nn.Linear(design.shape[1], outputs)
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    optimiser = torch.optim.AdamW(
        [{"params": [probe.weight], "weight_decay": decay}, {"params": [probe.bias], "weight_decay": 0.0}], RATE
    )
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(probe(design), truth, None).backward()
        optimiser.step()
    return probe


def _with_interval(question: Question, answers: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    return _bootstrapped(
        lambda chosen: question.task.measure(answers[chosen], truth[chosen])[question.figure], len(truth)
    )


def _bootstrapped(figure, count: int) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    samples = [figure(random.integers(0, count, count)) for _ in range(BOOTSTRAPS)]
    known = [value for value in samples if not math.isnan(value)]
    low, high = np.percentile(known, (2.5, 97.5))
    return figure(np.arange(count)), float(low), float(high)


def _tell(
    options: Tasks,
    table: Table,
    question: Question,
    kind: str,
    count: int,
    figures: tuple[float, float, float],
    seconds: float,
) -> None:
    value, low, high = figures
    table.add_row(
        question.name, str(count), question.figure, kind, f"{value:.3f}", f"{low:.3f} to {high:.3f}", f"{seconds:.0f}"
    )
    row = {
        "question": question.name,
        "cases": count,
        "figure": question.figure,
        "features": kind,
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "core_seconds": round(seconds, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Tasks))
