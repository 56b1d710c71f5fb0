"""Training goes on from an adapter that fits: what it knew is kept by name, what is new begins beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase
from fm3d_core.adaptation.finetune import finetune, train
from fm3d_core.adaptation.training_set import read_training_set
from fm3d_core.adaptation.warm_start import why_not
from fm3d_core.tasks import SegmentationTask

STILL = 1e-12  # a learning rate that changes nothing


@pytest.mark.parametrize("method", ["full", "lora", "spatial_adapter"])
def test_going_on_without_learning_gives_what_was_known(
    method: str, synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    settings = FinetuneSettings(method=method, steps=4, device="cpu")
    data = read_training_set(synthetic_cases[:1], task)
    first = train(data, settings)
    again = train(data, replace(settings, steps=1, learning_rate=STILL), start=first)
    for name, tensor in first.tensors.items():
        assert torch.allclose(again.tensors[name], tensor, atol=1e-6), name
    assert again.card.window == first.card.window


def test_rows_go_by_name_and_a_new_structure_gets_one(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    one, two = task.labels
    settings = FinetuneSettings(steps=4, device="cpu")
    values = {one: 1, two: 2}
    cases = [replace(case, values=values) for case in synthetic_cases[:1]]
    first = finetune(cases, SegmentationTask((two,)), settings)
    both = read_training_set(cases, SegmentationTask((one, two), first.card.task.preprocessing))
    wider = train(both, replace(settings, steps=1, learning_rate=STILL), start=first)
    name = "head.classifiers.0.weight"
    old, new = first.tensors[name], wider.tensors[name]
    assert old.shape[0] == 2 and new.shape[0] == 3
    assert torch.allclose(new[[0, 2]], old, atol=1e-6) and new[1].abs().sum() > 0


def test_what_does_not_fit_is_said(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    settings = FinetuneSettings(steps=1, device="cpu")
    card = finetune(synthetic_cases[:1], task, settings).card
    sha256 = card.backbone_sha256
    assert why_not(card, task, settings, sha256) is None
    assert why_not(card, SegmentationTask((*task.labels, "more")), settings, sha256) is None
    assert "another backbone" in str(why_not(card, task, settings, "other"))
    assert "method is full, not lora" in str(why_not(card, task, replace(settings, method="lora"), sha256))
    assert "decoder is auto, not new" in str(why_not(card, task, replace(settings, decoder="new"), sha256))
    assert f"learned {task.labels[1]}" in str(why_not(card, SegmentationTask(task.labels[:1]), settings, sha256))
    assert "no volume" in str(why_not(replace(card, cases=()), task, settings, sha256))
