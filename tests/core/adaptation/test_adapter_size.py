"""An adapter's file is small, and what comes back from it is exactly what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume


@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        ("full", "residual_unet_small"),
        ("linear_probe", "residual_unet_small"),
        pytest.param("lora", "swin_unetr_tiny", marks=pytest.mark.slow),
    ],
)
def test_an_adapter_is_smaller_than_a_megabyte_and_comes_back_as_it_was(
    method: str, backbone: str, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    settings = FinetuneSettings(method=method, backbone=backbone, steps=1, device="cpu")
    adapter = finetune(synthetic_cases[:1], task, settings)
    folder = adapter.save(tmp_path / "adapter")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    again = Adapter.load(folder)
    for name, tensor in {**adapter.tensors, **adapter.first_head}.items():
        assert torch.equal({**again.tensors, **again.first_head}[name], tensor), name
    volume = read_volume(synthetic_cases[1].image)
    assert np.array_equal(Predictor(adapter, "cpu").segment(volume), Predictor(again, "cpu").segment(volume))


def test_values_that_half_precision_does_not_hold_are_kept(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    made = finetune(synthetic_cases[:1], task, FinetuneSettings(method="linear_probe", steps=1, device="cpu"))
    odd = {name: tensor + 1e-7 + 1e6 * (tensor > 0) for name, tensor in made.tensors.items()}
    again = Adapter.load(Adapter(made.card, odd).save(tmp_path / "odd"))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in odd.items())
