"""Jobs: what is asked of SLURM, and a run that is pre-empted, queues itself again and ends with the same curve."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_processes import TINY, finish, start
from slurm_cluster import missing, program, slurm_cluster

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.checkpoints import Checkpoints
from fm3d_core.pretraining.run_log import read_metrics
from fm3d_core.pretraining.slurm import SlurmSettings, parse_slurm

Curve = Callable[[Path], list[dict[str, Any]]]


def test_options_become_what_submitit_asks_for() -> None:
    settings = parse_slurm("partition=gpu, nodes=2,gpus=4,hours=1.5,memory=64,qos=low")
    assert settings == SlurmSettings(partition="gpu", nodes=2, gpus=4, hours=1.5, memory=64, qos="low")
    assert settings.parameters() == {
        "name": "fm3d-pretrain",
        "nodes": 2,
        "tasks_per_node": 4,
        "cpus_per_task": 4,
        "timeout_min": 90,
        "slurm_signal_delay_s": 120,
        "gpus_per_node": 4,
        "mem_gb": 64,
        "slurm_partition": "gpu",
        "slurm_qos": "low",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("gpu", "'gpu' is not NAME=VALUE"),
        ("queue=gpu", r"--slurm\.queue: is not a known key. Known here: partition"),
        ("nodes=two", r"--slurm\.nodes: input should be a valid integer"),
        ("nodes=0", "Give 1 or more nodes"),
        ("hours=0", "Give hours above 0"),
    ],
)
def test_a_mistake_in_the_options_is_named(options: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_slurm(options)


def test_without_slurm_it_says_where_to_run_it(tiny: Path, crop_store: Path, tmp_path: Path) -> None:
    if program("srun"):
        pytest.skip("SLURM is installed here")
    process = start("pretrain", tiny, "--data", crop_store, "--out", tmp_path / "run", "--slurm", "nodes=1")
    assert "Run it where sbatch works" in finish(process, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_preempted_job_on_a_real_cluster_queues_itself_again_and_ends_with_the_same_curve(
    processes: int, crop_store: Path, tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := missing():
        pytest.skip(why)
    content = {**TINY, "run": {**TINY["run"], "checkpoint_every": 1000}}  # what is saved, the signal saved
    content["settings"] = {**TINY["settings"], "schedule": {**TINY["settings"]["schedule"], "epoch_steps": 40}}
    config, run, whole = tmp_path / "long.yaml", tmp_path / "run", tmp_path / "whole"
    config.write_text(yaml.safe_dump(content))
    exact = ("--set", "settings.backbone.options.drop_path=0.0", "--set", "settings.step.koleo_across_ranks=true")
    command = ("pretrain", config, "--data", crop_store, *exact)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        options = f"partition=test,processes={processes},cpus=1,hours=1"
        said = finish(start(*command, "--out", run, "--slurm", options))
        job = said.split("SLURM job ")[1].split(";")[0]
        _wait(lambda: _reached(run, 60), run)
        subprocess.run(["scancel", "--signal=USR2", job], env=os.environ, check=True)
        _wait(lambda: "Restarts=1" in _job(job), run)
        stopped = Checkpoints(run / "checkpoints").steps()
        assert len(stopped) == 1 and 60 <= stopped[0] < 240
        # SLURM lets a requeued job rest for two minutes
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
        _wait(lambda: "JobState=COMPLETED" in _job(job), run)
    finish(start(*command, "--out", whole))
    assert len(curve(run)) == 60
    if processes == 1:
        assert curve(run) == curve(whole)
    for one, other in zip(curve(run)[:20], curve(whole)[:20], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


def _reached(run: Path, step: int) -> bool:
    path = run / "metrics.jsonl"
    return path.is_file() and any(record["step"] >= step for record in read_metrics(path))


def _job(job: str) -> str:
    return subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout


def _wait(done: Callable[[], bool], run: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            logs = [
                path.read_text(errors="replace")[-3000:]
                for path in (run / "slurm").glob("*")
                if path.suffix in (".out", ".err")
            ]
            raise AssertionError("\n".join(logs))
        time.sleep(0.3)
