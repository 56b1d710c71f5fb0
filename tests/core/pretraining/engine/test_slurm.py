"""Jobs: what is asked of SLURM, and a run that is pre-empted, queues itself again and ends with the same curve."""

from __future__ import annotations

import os
import subprocess
import sys
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
    run, whole, command = tmp_path / "run", tmp_path / "whole", _long_run(tmp_path, crop_store)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        options = f"partition=test,processes={processes},cpus=1,hours=1"
        said = finish(start(*command, "--out", run, "--slurm", options))
        job = said.split("SLURM job ")[1].split(";")[0]
        _stopped_by("USR2", job, run)
    finish(start(*command, "--out", whole))
    assert len(curve(run)) == 60
    if processes == 1:
        assert curve(run) == curve(whole)
    for one, other in zip(curve(run)[:20], curve(whole)[:20], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


@pytest.mark.slow
def test_the_script_of_the_guide_queues_itself_again_on_a_real_cluster(
    crop_store: Path, tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands in docs/pretraining.md, but for what every user changes, and GPUs."""
    if why := missing():
        pytest.skip(why)
    command = " ".join(map(str, _long_run(tmp_path, crop_store)))
    script = _script_of_the_guide()
    for theirs, ours in {
        "--partition=gpu": "--partition=test",
        "--ntasks-per-node=4": "--ntasks-per-node=2",
        "#SBATCH --gpus-per-node=4\n": "",
        "--cpus-per-task=16": "--cpus-per-task=1",
        "--time=24:00:00": "--time=01:00:00",
        "/path/to/venv/bin/activate": str(Path(sys.prefix) / "bin/activate"),
        "pretrain 3dino_vit_large --data store": command,
    }.items():
        assert script.count(theirs) == 1, theirs
        script = script.replace(theirs, ours)
    (tmp_path / "job.sh").write_text(script)
    run, whole = tmp_path / "run", tmp_path / "whole"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        said = subprocess.run(["sbatch", "job.sh"], capture_output=True, text=True, check=True).stdout
        job = said.split()[-1]
        _stopped_by("USR1", job, run)  # what --signal=USR1@120 sends, to the same processes
    log = (tmp_path / f"run-{job}.log").read_text()
    assert "which is saved" in log and "of 240" in log
    finish(start(*command.split(), "--out", whole))
    assert len(curve(run)) == 60
    for one, other in zip(curve(run)[:20], curve(whole)[:20], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


def _script_of_the_guide() -> str:
    guide = (Path(__file__).parents[4] / "docs/pretraining.md").read_text(encoding="utf-8")
    (script,) = [block for block in guide.split("```bash\n")[1:] if block.startswith("#!/bin/bash")]
    return script.split("```")[0]


def _long_run(folder: Path, crop_store: Path) -> tuple[object, ...]:
    """The arguments of a run of 240 steps that saves nothing unless it is stopped."""
    content = {**TINY, "run": {**TINY["run"], "checkpoint_every": 1000}}
    content["settings"] = {**TINY["settings"], "schedule": {**TINY["settings"]["schedule"], "epoch_steps": 40}}
    config = folder / "long.yaml"
    config.write_text(yaml.safe_dump(content))
    exact = ("--set", "settings.backbone.options.drop_path=0.0", "--set", "settings.step.koleo_across_ranks=true")
    return ("pretrain", config, "--data", crop_store, *exact)


def _stopped_by(signal: str, job: str, run: Path) -> None:
    """Send the signal to a job in the middle, and see it through: saved, queued again, ended."""
    _wait(lambda: _reached(run, 60), run)
    subprocess.run(["scancel", f"--signal={signal}", job], env=os.environ, check=True)
    _wait(lambda: "Restarts=1" in _job(job), run)
    stopped = Checkpoints(run / "checkpoints").steps()
    assert len(stopped) == 1 and 60 <= stopped[0] < 240
    # SLURM lets a requeued job rest for two minutes
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    _wait(lambda: "JobState=COMPLETED" in _job(job), run)


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
                for path in [*(run / "slurm").glob("*"), *run.parent.glob("*.log")]
                if path.suffix in (".out", ".err", ".log")
            ]
            raise AssertionError("\n".join(logs))
        time.sleep(0.3)
