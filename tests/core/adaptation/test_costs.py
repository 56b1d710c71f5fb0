"""What a method costs: counted exactly, measured plausibly, and printed for every method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
from fm3d_core.adaptation.adapter import in_half
from fm3d_core.adaptation.costs import cost_of
from fm3d_core.adaptation.methods import METHODS, check_method
from fm3d_core.cli.main import main
from fm3d_core.tasks import SegmentationTask


@pytest.mark.parametrize("method", ["lora", "spatial_adapter"])
def test_the_counted_size_is_that_of_a_saved_adapter(method: str, tmp_path: Path) -> None:
    cost = cost_of(check_method(method), "residual_unet_small")
    adapter = untrained_adapter(SegmentationTask(("a",)), FinetuneSettings(method=method))
    # as after training: zeros would take less
    trained = in_half({name: torch.randn_like(tensor) for name, tensor in adapter.tensors.items()})
    folder = replace(adapter, tensors=trained).save(tmp_path / "a")
    file = (folder / "adapter.safetensors").stat().st_size
    assert 2 * cost.parameters <= cost.file_bytes <= 4 * cost.parameters
    assert cost.file_bytes <= file < cost.file_bytes + 10_000


def test_a_step_on_frozen_features_is_measured_as_cheaper_than_one_of_all_weights() -> None:
    full, probe = (
        cost_of(METHODS[name], "vit_light_8", measure=True, device="cpu") for name in ("full", "linear_probe")
    )
    assert full.step is not None and probe.step is not None
    assert 0 < probe.step.seconds < full.step.seconds
    assert 3 * 4 * full.parameters < full.step.memory and probe.step.memory < full.step.memory / 2


def test_the_table_has_every_method_and_says_why_one_does_not_go_with_the_backbone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["methods"])
    table = capsys.readouterr().out
    assert all(f" {name} " in table for name in METHODS)
    assert "needs attention, which this backbone has not" in table and " kB " in table
    with pytest.raises(SystemExit) as ended:
        main(["methods", "--backbone", "magic"])
    assert ended.value.code == 2 and "unknown backbone 'magic'" in capsys.readouterr().err
