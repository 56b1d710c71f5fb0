"""Two processes (torchrun, gloo) give the curve of one on the same batches, and one goes on where two stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_processes import finish, start
from safetensors.torch import load_file

from fm3d_core.pretraining.checkpoints import Checkpoints
from fm3d_core.pretraining.run_log import read_metrics

Curve = Callable[[Path], list[dict[str, Any]]]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# stochastic depth draws other numbers in each process
EXACT = ("--set", "settings.backbone.options.drop_path=0.0", "--set", "settings.step.koleo_across_ranks=true")


def close(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert [record["step"] for record in first] == [record["step"] for record in second]
    for one, other in zip(first, second, strict=True):
        losses = [name for name in one if name.startswith("loss")]
        assert len(losses) >= 5 and one.keys() == other.keys()
        for name in losses:
            assert one[name] == pytest.approx(other[name], abs=1e-4), (one["step"], name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, crop_store: Path) -> Path:
    """One process, 24 steps."""
    import yaml
    from engine_processes import TINY

    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    run = folder / "run"
    finish(start("pretrain", folder / "tiny.yaml", "--data", crop_store, "--out", run, "--steps", 24, *EXACT))
    return run


@pytest.mark.slow
def test_torchrun_with_two_processes_equals_one_and_one_goes_on_with_it(
    alone: Path, tiny: Path, crop_store: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny, "--data", crop_store, "--out", run, *EXACT)
    said = finish(start(*command, "--steps", 16, launcher=TORCHRUN))
    assert said.count("step 4/60") == 1  # only one of them talks
    close(curve(run), curve(alone)[:4])
    assert Checkpoints(run / "checkpoints").steps() == [10, 16]
    finish(start(*command, "--steps", 24))  # one process instead of two
    close(curve(run), curve(alone))


def test_devices_of_the_configuration_start_the_other_processes(
    alone: Path, tiny: Path, crop_store: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    finish(start("pretrain", tiny, "--data", crop_store, "--out", run, *EXACT, "--steps", 8, "--set", "run.devices=2"))
    close(curve(run), curve(alone)[:2])


@pytest.mark.slow
def test_fsdp_on_two_cpu_processes_equals_one_and_resumes_without_it(
    alone: Path, tiny: Path, crop_store: Path, tmp_path: Path, curve: Curve
) -> None:
    run = tmp_path / "run"
    command = ("pretrain", tiny, "--data", crop_store, "--out", run, *EXACT)
    finish(start(*command, "--steps", 16, "--set", "run.strategy=fsdp", launcher=TORCHRUN))
    close(curve(run), curve(alone)[:4])
    finish(start(*command, "--steps", 20))
    finish(start(*command, "--steps", 24, "--set", "run.strategy=fsdp", launcher=TORCHRUN))
    close(curve(run), curve(alone))
    ours, theirs = (load_file(folder / "backbone.safetensors") for folder in (run, alone))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)


@pytest.mark.slow
def test_gram_anchoring_under_fsdp_equals_one_process_and_moves_to_it(
    tiny: Path, crop_store: Path, tmp_path: Path, curve: Curve
) -> None:
    """The anchor is a third network that is sharded; it takes the teacher of the day shard by shard."""
    gram = ("--set", "settings.step.gram={weight: 2.0, start: 4, refresh: 4}", "--set", "run.log_every=2")
    command = ("pretrain", tiny, "--data", crop_store, *EXACT, *gram)
    finish(start(*command, "--out", tmp_path / "one", "--steps", 12))
    sharded = ("--out", tmp_path / "sharded", "--set", "run.strategy=fsdp")
    finish(start(*command, *sharded, "--steps", 10, launcher=TORCHRUN))
    finish(start(*command, "--out", tmp_path / "sharded", "--steps", 12))  # the anchor came along
    records = curve(tmp_path / "one")
    assert ["loss/gram" in record for record in records] == [False, False, True, True, True, True]
    assert all(record["loss/gram"] > 0 for record in records[2:])
    close(curve(tmp_path / "sharded"), records)


def test_one_sample_per_process_works_though_some_have_nothing_masked(
    tiny: Path, crop_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = ("--set", "run.batch_size=2", "--set", "settings.schedule.batch=2")
    finish(start("pretrain", tiny, "--data", crop_store, "--out", run, *small, "--steps", 24, launcher=TORCHRUN))
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == list(range(4, 25, 4))


def test_an_error_in_one_process_ends_both_with_its_line(tiny: Path, tmp_path: Path) -> None:
    process = start("pretrain", tiny, "--data", tmp_path / "nothing", "--out", tmp_path / "run", launcher=TORCHRUN)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "fm3d: " in said and "fm3d data cache" in said
