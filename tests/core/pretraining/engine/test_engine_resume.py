"""A run that is killed, stopped, damaged or moved goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_processes import finish, start, wait_for_step
from safetensors.torch import load_file

from fm3d_core.errors import SettingsError, StorageError
from fm3d_core.pretraining.checkpoints import Checkpoints
from fm3d_core.pretraining.engine import pretrain
from fm3d_core.pretraining.settings import PretrainSettings
from fm3d_core.pretraining.signals import RunStopped

Curve = Callable[[Path], list[dict[str, Any]]]
Tiny = Callable[..., PretrainSettings]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, crop_store: Path) -> Path:
    """An unbroken run of the tiny configuration."""
    import yaml
    from engine_processes import TINY

    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    finish(start("pretrain", folder / "tiny.yaml", "--data", crop_store, "--out", folder / "run"))
    return folder / "run"


def same_weights(first: Path, second: Path) -> bool:
    names = ("backbone.safetensors", "teacher.safetensors")
    pairs = [(load_file(first / name), load_file(second / name)) for name in names]
    return all(torch.equal(one[key], other[key]) for one, other in pairs for key in one | other)


@pytest.mark.slow
def test_kill_nine_in_the_middle_twice_and_restarts_give_the_same_curve_and_the_same_bits(
    tiny: Path, crop_store: Path, unbroken: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny, "--data", crop_store, "--out", run)
    for step in (16, 36):  # between checkpoints, which come at each tenth step
        process = start(*command, "--set", "run.workers=1")
        wait_for_step(run, step, process)
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
    finish(start(*command))
    assert [record["step"] for record in curve(run)] == list(range(4, 61, 4))
    assert curve(run) == curve(unbroken)
    assert same_weights(run, unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_says_how_to_go_on(
    number: signal.Signals, tiny: Path, crop_store: Path, unbroken: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny, "--data", crop_store, "--out", run)
    process = start(*command)
    wait_for_step(run, 12, process)
    process.send_signal(number)
    said = finish(process, 75)
    stopped = Checkpoints(run / "checkpoints").steps()[-1]
    assert f"stopped after step {stopped} of 60, which is saved. Resume with the same command" in said
    assert 12 <= stopped < 60
    if number == signal.SIGTERM:  # once is enough
        finish(start(*command))
        assert curve(run) == curve(unbroken) and same_weights(run, unbroken)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves_though_it_reaches_the_loaders_workers(
    number: signal.Signals, tiny: Path, crop_store: Path, tmp_path: Path
) -> None:
    """What Ctrl-C, ``timeout`` and SLURM send."""
    run = tmp_path / "run"
    process = start("pretrain", tiny, "--data", crop_store, "--out", run, "--set", "run.workers=1", own_group=True)
    wait_for_step(run, 4, process)
    os.killpg(process.pid, number)
    assert "which is saved" in finish(process, 75)
    assert 4 <= Checkpoints(run / "checkpoints").steps()[-1] < 60


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the workers in /proc")
def test_workers_end_when_the_training_is_killed(tiny: Path, crop_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("pretrain", tiny, "--data", crop_store, "--out", run, "--set", "run.workers=1")
    wait_for_step(run, 4, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.wait(timeout=60)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, "the workers still run"
        time.sleep(0.1)


def test_stopping_within_a_log_window_loses_nothing_of_its_mean(
    tiny_settings: Tiny, crop_store: Path, unbroken: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    pretrain(tiny_settings(), crop_store, run, stop_after=6)  # lines come at 4 and 8
    pretrain(tiny_settings(), crop_store, run, stop_after=8)
    assert curve(run) == curve(unbroken)[:2]


def test_the_newest_checkpoints_stay_and_those_at_round_steps(
    tiny_settings: Tiny, crop_store: Path, tmp_path: Path
) -> None:
    settings = tiny_settings("run.keep=2", "run.checkpoint_every=2", "run.keep_every=6")
    pretrain(settings, crop_store, tmp_path / "run", stop_after=15)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [6, 12, 14, 15]


def test_a_resume_with_another_configuration_is_refused_by_the_keys_that_differ(
    tiny_settings: Tiny, crop_store: Path, tmp_path: Path
) -> None:
    pretrain(tiny_settings(), crop_store, tmp_path / "run", stop_after=1)
    with pytest.raises(SettingsError) as refused:
        pretrain(tiny_settings("settings.schedule.epochs=7", "run.seed=3"), crop_store, tmp_path / "run")
    assert "settings.schedule.epochs: 6 -> 7; run.seed: 0 -> 3" in str(refused.value)
    # what changes no result may change
    free = tiny_settings("run.workers=1", "run.keep=9", "run.checkpoint_every=1", "about=another line")
    pretrain(free, crop_store, tmp_path / "run", stop_after=2)


def test_a_resume_with_other_data_is_refused(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    pretrain(tiny_settings(), crop_store, tmp_path / "run", stop_after=1)
    other = tmp_path / "store"
    shutil.copytree(crop_store, other)
    index = json.loads((other / "index.json").read_text())
    index.pop()
    (other / "index.json").write_text(json.dumps(index))
    with pytest.raises(SettingsError, match="number of volumes 6, this one 5"):
        pretrain(tiny_settings(), other, tmp_path / "run")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_with_a_warning(
    tiny_settings: Tiny,
    crop_store: Path,
    unbroken: Path,
    tmp_path: Path,
    curve: Curve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, checkpoints = tmp_path / "run", Checkpoints(tmp_path / "run" / "checkpoints")
    pretrain(tiny_settings(), crop_store, run, stop_after=24)
    assert checkpoints.steps() == [10, 20, 24]
    state = checkpoints.path(24) / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 0xFF
    state.write_bytes(content)
    half = checkpoints.folder / ".writing-abc" / "step_0000030"
    half.mkdir(parents=True)
    (half / "state.pt").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        pretrain(tiny_settings(), crop_store, run, stop_after=30)
    assert "step_0000024 is damaged" in caplog.text
    assert not half.parent.exists()
    assert curve(run) == curve(unbroken)[:7]
    for step in checkpoints.steps():
        (checkpoints.path(step) / "state.pt").write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="all 3 checkpoints are damaged"):
        pretrain(tiny_settings(), crop_store, run)


def test_a_caller_can_stop_a_run(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    seen = []
    with pytest.raises(RunStopped) as stopped:
        pretrain(
            tiny_settings(), crop_store, tmp_path / "run", progress=seen.append, should_stop=lambda: len(seen) == 2
        )
    assert stopped.value.exit_code == 75 and "after step 9 of 60" in str(stopped.value)
    assert [(event.step, event.total) for event in seen] == [(4, 60), (8, 60)]
