"""The part of few_shot_nnunet.py that runs in nnU-Net's environment: python few_shot_nnunet_run.py FOLDER.

FOLDER/settings.json says what to do, FOLDER/figures.json what came of it. One thread; the core-seconds of the processes
that nnU-Net starts for preprocessing count as well.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main(work: Path) -> None:
    """Plan, preprocess, train, segment."""
    import numpy as np
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    settings: dict[str, Any] = json.loads((work / "settings.json").read_text("utf-8"))
    torch.set_num_threads(1)
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])
    torch.manual_seed(settings["seed"])
    start = _core_seconds()
    extract_fingerprints([1], num_processes=1)
    plan_experiments([1])
    preprocess([1], configurations=("3d_fullres",), num_processes=(1,))
    prepared = _core_seconds()
    os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in this process; planning needs at least 1
    trainer = _trainer(work, settings["optimiser"])
    trainer.on_train_start()
    begun = time.process_time()
    steps = _train(trainer, settings["seconds"], begun)
    trained = time.process_time()

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    (work / "out").mkdir()
    before = _core_seconds()
    predictor.predict_from_files_sequential(
        [[image] for image in settings["images"]], [str(work / "out" / name) for name in settings["names"]]
    )
    figures = {
        "prepare": prepared - start,
        "train": trained - begun,
        "steps": steps,
        "inference": _core_seconds() - before,
        "notes": {
            "patch": [int(edge) for edge in trainer.configuration_manager.patch_size],
            "batch": int(trainer.configuration_manager.batch_size),
            "torch": torch.__version__,
        },
    }
    (work / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


def _trainer(work: Path, optimiser: str) -> Any:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = work / "preprocessed" / "Dataset001_few"
    plans = json.loads((folder / "nnUNetPlans.json").read_text("utf-8"))
    plans["continue_training"] = False
    trainer = nnUNetTrainer(
        plans, "3d_fullres", "all", json.loads((folder / "dataset.json").read_text("utf-8")), torch.device("cpu")
    )
    trainer.disable_checkpointing = True
    trainer.initialize()
    if optimiser == "adamw":
        trainer.initial_lr = 1e-3
        trainer.optimizer = torch.optim.AdamW(trainer.network.parameters(), 1e-3, weight_decay=trainer.weight_decay)
    return trainer


def _train(trainer: Any, seconds: float, begun: float) -> int:
    """Steps with nnU-Net's polynomial decay (power 0.9) over the seconds."""
    trainer.network.train()
    steps = 0
    while (spent := time.process_time() - begun) < seconds:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - spent / seconds) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    return steps


def _core_seconds() -> float:
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]))
