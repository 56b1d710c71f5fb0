"""A tiny run, and the command as a real process: what the tests of the engine share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fm3d_core.pretraining.run_log import read_metrics

HEAD = {"prototypes": 32, "hidden": 16, "bottleneck": 8}
TINY: dict[str, Any] = {
    "about": "a tiny run for tests",
    "objective": "self_distillation",
    "settings": {
        "backbone": {
            "preset": "vit_tiny",
            "options": {"image_size": 32, "width": 24, "depth": 2, "heads": 3, "drop_path": 0.2, "layer_scale": 1.0},
        },
        "step": {"head": HEAD, "ibot_head": HEAD},
        "schedule": {
            "batch": 4,
            "base_learning_rate": 0.05,
            "epoch_steps": 10,
            "epochs": 6,
            "warmup_epochs": 1,
            "teacher_temperature_epochs": 2,
        },
        "views": {
            "global_crops": {"size": [32, 32, 32], "number": 2, "area": [0.48, 1.0], "depth": [0.5, 1.0]},
            "local_crops": {"size": [16, 16, 16], "number": 2, "area": [0.16, 0.48], "depth": [0.2, 0.5]},
        },
        "crop_dtype": "float32",
    },
    "run": {"batch_size": 4, "checkpoint_every": 10, "log_every": 4, "accelerator": "cpu"},
}


def start(
    *arguments: object, launcher: tuple[str, ...] = (sys.executable,), own_group: bool = False
) -> subprocess.Popen[str]:
    """``fm3d`` with these arguments as a process of its own, on request in a process group of its own."""
    command = [*launcher, "-m", "fm3d_core.cli.main", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=own_group
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end with this exit code; what it said."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the log of a run has reached ``step``."""
    metrics = run / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and any(record["step"] >= step for record in read_metrics(metrics)):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[0])
