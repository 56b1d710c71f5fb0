"""Options of a run that change what is computed, or only how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fm3d_core.cli.main import main
from fm3d_core.errors import WeightsError
from fm3d_core.models.weights.importing import choose_weights, import_checkpoint
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.pretraining.engine import pretrain
from fm3d_core.pretraining.run_log import read_metrics
from fm3d_core.pretraining.settings import PretrainSettings, read_configuration

Tiny = Callable[..., PretrainSettings]
Curve = Callable[[Path], list[dict[str, Any]]]
BACKBONE = "width: 24, depth: 2, heads: 3, image_size: 32, layer_scale: 1.0"


def test_rotary_positions_registers_block_masks_and_gram_anchoring_run_and_resume(
    tiny: Path, crop_store: Path, tmp_path: Path, curve: Curve
) -> None:
    """A ViT with rotary positions refuses crops without their voxel size, so these got theirs."""
    options = (
        f"settings.backbone.options={{{BACKBONE}, rotary_wavelengths: [4, 256], register_tokens: 2, drop_path: 0.0}}",
        "settings.masks.shape=blocks",
        "settings.step.gram={weight: 2.0, start: 2, refresh: 2}",
        "run.log_every=1",
    )
    command = ["pretrain", str(tiny), "--data", str(crop_store)]
    command += [part for option in options for part in ("--set", option)]
    main([*command, "--out", str(tmp_path / "whole"), "--steps", "6"])
    for steps in ("3", "6"):
        main([*command, "--out", str(tmp_path / "parts"), "--steps", steps])
    records = curve(tmp_path / "whole")
    assert curve(tmp_path / "parts") == records
    assert ["loss/gram" in record for record in records] == [False, False, True, True, True, True]
    assert records[2]["loss/gram"] > 0


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl")]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_recomputation_changes_nothing(precision: str, tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    runs = {
        "plain": ("run.recompute=false",),
        "products": ("run.recompute=true",),
        "checkpointed": ("run.activation_checkpointing=true",),
    }
    for name, options in runs.items():
        settings = tiny_settings(*options, f"run.precision={precision}", "run.log_every=1")
        pretrain(settings, crop_store, tmp_path / name, stop_after=4)
    for name in ("products", "checkpointed"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_curve(tiny_settings: Tiny, crop_store: Path, tmp_path: Path) -> None:
    for name, value in (("plain", "false"), ("compiled", "true")):
        settings = tiny_settings(f"run.compile={value}", "run.log_every=1", "settings.backbone.options.drop_path=0.0")
        pretrain(settings, crop_store, tmp_path / name, stop_after=4)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    ours, theirs = (load_file(tmp_path / name / "backbone.safetensors") for name in ("compiled", "plain"))
    assert ours.keys() == theirs.keys()


def test_a_backbone_that_is_no_preset_is_rebuilt_from_its_header_and_a_teacher_is_refused(
    tiny_settings: Tiny, crop_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FM3D_HOME", str(tmp_path / "home"))
    options = f"settings.backbone.options={{{BACKBONE}, register_tokens: 2, drop_path: 0.1}}"
    path = pretrain(tiny_settings(options), crop_store, tmp_path / "run", stop_after=1)
    preset, sha256 = choose_weights(path, None)
    backbone: Any = create_backbone(BackboneSpec(preset, weights=sha256))
    stored = load_file(path)
    assert backbone.width == 24 and backbone.config["register_tokens"] == 2 and backbone.config["drop_path"] == 0
    state = backbone.state_dict()
    assert state.keys() == stored.keys() and all(torch.equal(state[name], stored[name]) for name in stored)
    with pytest.raises(WeightsError):
        choose_weights(path, "vit_small")  # another shape
    with pytest.raises(WeightsError, match=r"teacher.safetensors: holds teacher.*backbone.safetensors beside it"):
        import_checkpoint(tmp_path / "run" / "teacher.safetensors")


def test_the_alarm_rings_in_a_run_that_really_collapses_and_not_in_one_that_does_not(
    tiny: Path, crop_store: Path, tmp_path: Path
) -> None:
    """A teacher without centering soon has one prototype for everything."""
    wide = f"settings.backbone.options={{{BACKBONE}, patch_size: 8, drop_path: 0.0}}"
    options = (wide, "settings.schedule.batch=8", "run.batch_size=8", "run.monitor_every=20", "run.log_every=20")
    sharp = "settings.schedule.teacher_temperature=[0.02, 0.02]"
    collapsing = (sharp, "settings.step.centering=softmax", "settings.step.center_momentum=1.0")
    for name, more, rings in (("sound", (sharp,), 0.0), ("collapsing", collapsing, 1.0)):
        settings = read_configuration(tiny, (*options, *more))
        pretrain(settings, crop_store, tmp_path / name, stop_after=20)
        (record,) = read_metrics(tmp_path / name / "metrics.jsonl")
        assert record["monitor/collapse"] == rings, record


class Alarm:
    """A monitor that always rings."""

    def __call__(self, objective: Any, step: int, folder: Path) -> dict[str, float]:
        return {"collapse": 1.0, "rank_whole": 1.0}


def test_a_collapse_is_in_the_metrics_and_on_the_terminal_also_between_two_lines(
    tiny: Path, crop_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fm3d_core.pretraining.monitors.monitors_for", lambda *_: [Alarm()])
    settings = ("--set", "run.monitor_every=3", "--set", "run.log_every=4", "--steps", "8")
    main(["pretrain", str(tiny), "--data", str(crop_store), "--out", str(tmp_path / "run"), *settings])
    looked = [
        record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "monitor/collapse" in record
    ]
    assert looked == [3, 6]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 2 and all("THE FEATURES COLLAPSE" in line and "rank_whole 1" in line for line in lines)
