"""Training answers in stages: a complete adapter after the head was solved for, while the rest still trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.errors import Stopped
from fm3d_core.evaluation import dice_per_label
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_label, read_volume


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_stage_is_the_head_that_training_starts_from(
    method: str, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    stages: list[Adapter] = []
    # training that changes nothing: what comes out of it is what went in
    settings = FinetuneSettings(method=method, steps=1, learning_rate=1e-12, device="cpu")
    last = finetune(synthetic_cases[:2], task, settings, on_stage=stages.append)
    (first,) = stages
    assert first.card.method == "linear_probe" and last.card.method == method
    assert first.card.cases == last.card.cases and first.card.task == last.card.task
    assert all(name.startswith("head.") for name in first.tensors)
    assert sum(tensor.nbytes for tensor in first.tensors.values()) < 100_000

    loaded = Adapter.load(first.save(tmp_path / "first"))
    volume = read_volume(synthetic_cases[2].image)
    early, late = (Predictor(adapter, "cpu").segment(volume) for adapter in (loaded, last))
    assert (early != late).mean() < 1e-3  # bfloat16 of LoRA's zero update may move single voxels
    dice = dice_per_label(early, read_label(synthetic_cases[2].label).array, task.labels)
    assert dice["ellipsoid"] > 0.3


def test_a_stage_that_was_handed_over_outlives_a_cancelled_training(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    stages: list[Adapter] = []
    settings = FinetuneSettings(steps=1000, device="cpu")
    with pytest.raises(Stopped):
        finetune(synthetic_cases[:2], task, settings, on_stage=stages.append, should_stop=lambda: bool(stages))
    assert np.isfinite(Predictor(stages[0], "cpu").segment(read_volume(synthetic_cases[2].image))).all()


def test_the_stage_does_not_change_while_training_goes_on(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    kept: list[tuple[Adapter, dict[str, torch.Tensor]]] = []

    def keep(adapter: Adapter) -> None:
        kept.append((adapter, {name: tensor.clone() for name, tensor in adapter.tensors.items()}))

    finetune(synthetic_cases[:1], task, FinetuneSettings(steps=3, device="cpu"), on_stage=keep)
    ((adapter, copies),) = kept
    assert all(torch.equal(adapter.tensors[name], copy) for name, copy in copies.items())


@pytest.mark.parametrize("settings", [{"method": "linear_probe"}, {"closed_form": False}])
def test_there_is_one_stage_where_there_is_nothing_to_hand_over(
    settings: dict[str, object], synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    stages: list[Adapter] = []
    finetune(
        synthetic_cases[:1],
        task,
        FinetuneSettings(steps=1, device="cpu", **settings),  # type: ignore[arg-type]
        on_stage=stages.append,
    )
    assert not stages
