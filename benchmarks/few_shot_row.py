"""One row of benchmarks/few_shot.py, in a process of its own: learn, segment the test volumes, print the figures.

    python benchmarks/few_shot_row.py --set hippocampus --shots 3 --seed 0 --method unet --budget 60

Core-seconds are those of this process and of those it started, with one thread. The last line printed is JSON.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from few_shot_sets import Split, split

from fm3d_core.evaluation import scores_per_label
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Case, read_label, read_volume

# Method -> module and function: (Row, Split) -> Trained.
METHODS = {
    "fm3d": ("few_shot_fm3d", "train"),
    "unet": ("few_shot_scratch", "train_unet"),
    "swin_unetr": ("few_shot_scratch", "train_swin_unetr"),
    "fseft_loop": ("few_shot_fseft", "train"),
    "nnunet": ("few_shot_nnunet", "train"),
    "nnunet_adamw": ("few_shot_nnunet", "train"),
}


@dataclass(frozen=True)
class Row:
    """What one run is.

    Attributes:
        set: name in few_shot_sets.py.
        shots: labelled volumes.
        seed: of the volumes drawn and of everything random in training.
        method: name in METHODS; fm3d:PRESET for a preset of FM3D, fm3d:METHOD for one of its finetuning methods.
        budget: core-seconds of training, reading and resampling not counted (they are reported beside it).
        data: folder of the sets.
        nnunet: the environment in which nnU-Net is installed.
    """

    set: str
    shots: int
    seed: int
    method: str
    budget: float
    data: Path = Path("../shared/data")
    nnunet: Path = Path("../nnunet-venv")

    @property
    def key(self) -> tuple[str, int, int, str, float]:
        """What tells rows apart."""
        return self.set, self.shots, self.seed, self.method, float(self.budget)


@dataclass(frozen=True)
class Trained:
    """What a method gives back.

    Attributes:
        segment: the label map (X, Y, Z) of a case on the grid on which read_volume gives its image.
        prepare: core-seconds of reading and resampling the volumes.
        train: core-seconds of training.
        steps: of the optimiser.
        notes: what else is worth knowing.
        inference: core-seconds of all test volumes, where ``segment`` only looks them up.
    """

    segment: Callable[[Case], npt.NDArray[np.uint8]]
    prepare: float
    train: float
    steps: int
    notes: dict[str, Any] = field(default_factory=dict)
    inference: float | None = None


def core_seconds() -> float:
    """Of this process and of the ended ones it started."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def run(row: Row) -> dict[str, Any]:
    """Learn and score."""
    import torch

    ensure_torchvision_importable()
    torch.set_num_threads(1)
    volumes = split(row.data, row.set, row.shots, row.seed)
    module, function = METHODS[row.method.partition(":")[0]]
    start = time.monotonic()
    trained: Trained = getattr(import_module(module), function)(row, volumes)
    wall = time.monotonic() - start
    segmentations, spent = [], core_seconds()
    for case in volumes.test:
        segmentations.append(trained.segment(case))
    inference = trained.inference if trained.inference is not None else core_seconds() - spent
    figures = score(segmentations, volumes)
    return {
        **{name: value for name, value in asdict(row).items() if name not in ("data", "nnunet")},
        **figures,
        "prepare_core_s": round(trained.prepare, 2),
        "train_core_s": round(trained.train, 2),
        "train_wall_s": round(wall, 1),
        "infer_core_s": round(inference / len(volumes.test), 3),
        "steps": trained.steps,
        "training": [case.name for case in volumes.training],
        "notes": trained.notes,
    }


def score(segmentations: Sequence[npt.NDArray[np.uint8]], volumes: Split) -> dict[str, Any]:
    """Means over the test volumes of the mean over the structures that a volume has, on its own grid.

    A structure that was not found at all has Dice 0 and no HD95: it is counted in ``missed``.
    """
    dice, hd95, missed = [], [], 0
    per_label: dict[str, list[float]] = {name: [] for name in volumes.labels}
    for case, segmentation in zip(volumes.test, segmentations, strict=True):
        assert case.label is not None
        label = read_label(case.label)
        scores = scores_per_label(segmentation, label.array, volumes.labels, label.spacing)
        present = {name: each for name, each in scores.items() if each.found_in in ("both", "truth")}
        for name, each in present.items():
            per_label[name].append(each.dice)
        dice.append(float(np.mean([each.dice for each in present.values()])))
        distances = [each.hd95 for each in present.values() if not math.isnan(each.hd95)]
        missed += len(present) - len(distances)
        hd95.append(float(np.mean(distances)) if distances else math.nan)
    return {
        "dice": round(float(np.mean(dice)), 4),
        "sd": round(float(np.std(dice)), 4),
        "min": round(min(dice), 4),
        "worst": volumes.test[int(np.argmin(dice))].name,
        "hd95": None if np.isnan(hd95).all() else round(float(np.nanmean(hd95)), 2),
        "missed": missed,
        "per_label": {name: round(float(np.mean(each)), 4) for name, each in per_label.items() if each},
        "per_volume": [round(each, 4) for each in dice],
    }


def image_of(case: Case) -> npt.NDArray[np.float32]:
    """(X, Y, Z) as read_volume gives it."""
    return read_volume(case.image).array


if __name__ == "__main__":
    # before torch is imported: idle OpenMP threads spin, and the processor's seconds would count that
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    sys.stdout.write(json.dumps(run(tyro.cli(Row, description=__doc__))) + "\n")
