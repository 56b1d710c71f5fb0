"""A head begins with the rows of the weights' own classifier where they are better than what a few labels teach."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from layouts import swin_tensors

from fm3d_core import devices
from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.building import build
from fm3d_core.adaptation.closed_form import Solution, Voxels, choose_solution
from fm3d_core.adaptation.methods import check_method
from fm3d_core.adaptation.zero_shot import zero_shot_adapter
from fm3d_core.models.weights.catalogue import find_entry
from fm3d_core.models.weights.importing import import_checkpoint
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume, write_label, write_nifti

LIVER, SPLEEN = (find_entry("fseft").head.classes.index(name) for name in ("liver", "spleen"))  # type: ignore[union-attr]


@pytest.fixture
def head(tmp_path: Path) -> dict[str, torch.Tensor]:
    """A small file in FSEFT's layout, imported; its classifier."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(29, 12, 1, 1, 1, generator=generator), torch.randn(29, generator=generator) / 3
    swin = {f"module.{name}": tensor for name, tensor in swin_tensors().items()}
    torch.save(swin | {"module.classifier.weight": weight, "module.classifier.bias": bias}, tmp_path / "fseft.pth")
    import_checkpoint(tmp_path / "fseft.pth", "fseft", "swin_unetr_tiny_legacy")
    return {"weight": weight, "bias": bias}


def test_the_better_of_both_is_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        features = torch.randn(300, 2, generator=generator)
        batches.append(Voxels(features, (features[:, 0] > 1.5).long(), torch.ones(300)))
    exact = Solution(torch.tensor([[0.0, 9.0], [0.0, 0.0]]), torch.tensor([0.0, -13.5]))
    wrong = Solution(-exact.weight, exact.bias)
    assert torch.equal(choose_solution(batches, 2, exact).weight, exact.weight)
    assert torch.equal(choose_solution(batches, 2, wrong).weight, choose_solution(batches, 2).weight)


def test_known_rows_are_copied_and_others_stay_random(head: dict[str, torch.Tensor]) -> None:
    task = SegmentationTask(("left atrium", "lien"))
    settings = FinetuneSettings(method="full", weights=Path("fseft"), closed_form=False, device="cpu")
    built = build(task, settings, check_method("full"))
    assert built.known is None  # of the atrium the weights know nothing
    finest, *others = built.network.head.classifiers  # type: ignore[misc,union-attr]
    assert torch.equal(finest.weight[2, :, 0, 0, 0], head["weight"][SPLEEN, :, 0, 0, 0])
    assert finest.bias[2] == head["bias"][SPLEEN] and not finest.weight[0].any() and finest.weight[1].any()
    assert all(not each.weight[2].any() and each.weight[1].any() for each in others)


def test_a_probe_on_what_the_weights_know_is_their_own_classifier(
    head: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    task = SegmentationTask(("liver", "spleen"))
    settings = FinetuneSettings(method="linear_probe", weights=Path("fseft"), steps=1, learning_rate=1e-9, device="cpu")
    untrained = zero_shot_adapter(task, settings)
    assert untrained is not None
    # of the weights' own spacing and a whole window, so that labels of single voxels stay as they are and nothing is
    # padded; in float32, because the answer of random weights to noise changes with every rounding
    values = np.random.default_rng(0).integers(-300, 300, (64, 64, 64)).astype(np.int16)
    image = write_nifti(tmp_path / "ct.nii.gz", values, np.diag([1.5, 1.5, 1.5, 1.0]))
    volume = read_volume(image)
    label = tmp_path / "label.nii.gz"
    preprocessing = untrained.card.task.preprocessing
    assert preprocessing is not None
    with torch.inference_mode():  # one plain view: a predictor may average several
        scores = untrained.build_network()(preprocessing.prepare(volume).image[None])
    write_label(label, scores[0].argmax(0).numpy().astype(np.uint8), like=volume)
    case = LabeledCase("ct", image, label)
    adapter = finetune([case], replace(task, preprocessing=preprocessing), settings)
    learned = adapter.tensors["head.classifiers.0.weight"][1:, :, 0, 0, 0]
    torch.testing.assert_close(learned, head["weight"][[LIVER, SPLEEN], :, 0, 0, 0], atol=1e-4, rtol=0)
