"""Training learns, is reproducible, can be cancelled, and says what is wrong with the cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune, untrained_adapter
from fm3d_core.adaptation.cases import load_cases, plan_preprocessing
from fm3d_core.errors import CaseError, FM3DError, SettingsError, Stopped, WeightsError
from fm3d_core.inference import Predictor
from fm3d_core.progress import Progress
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_label, read_volume


@pytest.mark.parametrize("method", ["full", "lora", "linear_probe"])
def test_a_method_learns_saves_and_comes_back_with_the_same_answers(
    method: str, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    # from a head drawn at random, whose loss must fall; test_closed_form.py has the other beginning
    settings = FinetuneSettings(method=method, steps=12, device="cpu", closed_form=False)
    events: list[Progress] = []
    adapter = finetune(synthetic_cases[:2], task, settings, progress=events.append)
    losses = [event.loss for event in events if event.loss is not None]
    assert losses[-1] < losses[0]
    stages = list(dict.fromkeys(event.stage for event in events))
    middle = ["computing features"] if method == "linear_probe" else []
    assert stages == ["reading volumes", "preparing volumes", *middle, "training"]
    assert events[-1].eta == 0 and events[-1].step == 12

    volume = read_volume(synthetic_cases[3].image)
    again = type(adapter).load(adapter.save(tmp_path / "adapter"))
    first, second = Predictor(adapter).segment(volume), Predictor(again).segment(volume)
    assert first.shape == volume.array.shape and first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_the_card_says_where_the_adapter_comes_from(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    card = finetune(synthetic_cases[:2], task, quick).card
    assert [case.name for case in card.cases] == [case.name for case in synthetic_cases[:2]]
    assert all(len(case.image_sha256) == len(case.label_sha256) == 64 for case in card.cases)
    assert card.task.labels == task.labels and card.task.preprocessing is not None
    assert card.settings["seed"] == 0 and card.training["steps"] == 2
    assert {"fm3d", "torch", "monai", "peft"} <= set(card.versions)


@pytest.mark.parametrize(("method", "optimiser"), [("full", "muon"), ("bias", "adamw")])
def test_the_card_says_by_which_optimiser_and_rate_it_trained(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, method: str, optimiser: str
) -> None:
    asked = replace(quick, method=method, learning_rate=None, optimiser=None)
    settings = finetune(synthetic_cases[:2], task, asked).card.settings
    assert settings["optimiser"] == optimiser and settings["learning_rate"] == asked.chosen_method().learning_rate


def test_the_same_seed_and_steps_give_the_same_adapter(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    first, second = (finetune(synthetic_cases[:2], task, quick) for _ in range(2))
    other = finetune(synthetic_cases[:2], task, replace(quick, seed=1))
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in second.tensors.items())
    assert not all(torch.equal(first.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_imported_weights_are_what_training_starts_from(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    import safetensors.torch

    from fm3d_core.models.zoo import BackboneSpec, create_backbone

    state = create_backbone(BackboneSpec("residual_unet_small", seed=9)).state_dict()  # type: ignore[attr-defined]
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors"
    )
    settings = replace(quick, method="linear_probe", weights=tmp_path / "w.safetensors")
    adapter = finetune(synthetic_cases[:1], task, settings)
    network = adapter.build_network()
    assert all(torch.equal(network.backbone.state_dict()[name], tensor) for name, tensor in state.items())


def test_public_weights_are_named_by_their_id_and_choose_the_backbone(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    from fm3d_core.models.weights.importing import import_checkpoint
    from fm3d_core.models.zoo import BackboneSpec, create_backbone

    state = create_backbone(BackboneSpec("suprem_segresnet", seed=9)).state_dict()  # type: ignore[attr-defined]
    named = {f"module.{name.removeprefix('network.')}": tensor for name, tensor in state.items()}
    torch.save({"net": named, "epoch": 1}, tmp_path / "public.pth")
    sha256 = import_checkpoint(tmp_path / "public.pth").sha256
    settings = replace(quick, method="linear_probe", weights=Path("suprem_segresnet"))
    adapter = finetune(synthetic_cases[:1], task, settings)
    assert adapter.card.backbone == BackboneSpec("suprem_segresnet", weights=sha256)
    network = adapter.build_network()
    assert all(torch.equal(network.backbone.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(SettingsError, match="suprem_segresnet are for the backbone suprem_segresnet, not for vit_tiny"):
        finetune(synthetic_cases[:1], task, replace(settings, backbone="vit_tiny"))
    with pytest.raises(WeightsError, match="btcv are not on this computer"):
        finetune(synthetic_cases[:1], task, replace(settings, weights=Path("btcv")))


def test_cancelling_stops_at_every_stage(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    for calls in (0, 1, 2, 3, 4):
        asked = iter(range(100))
        with pytest.raises(Stopped, match="Training was cancelled"):
            finetune(
                synthetic_cases[:2], task, quick, should_stop=lambda asked=asked, calls=calls: next(asked) >= calls
            )


def test_a_bad_case_is_left_out_and_named_in_the_card(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(synthetic_cases[0].image.read_bytes()[:500])
    bad = replace(synthetic_cases[0], name="bad", image=broken)
    card = finetune([synthetic_cases[1], bad], task, quick).card
    assert len(card.cases) == 1 and len(card.left_out) == 1
    assert card.left_out[0].startswith("bad: ") and str(tmp_path) not in card.left_out[0]  # cards travel: no paths


def test_the_label_values_of_a_file_are_mapped_by_name(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    case = synthetic_cases[0]
    file = nib.load(case.label)
    swapped = np.select([np.asarray(file.dataobj) == 1, np.asarray(file.dataobj) == 2], [7, 3]).astype(np.uint8)
    nib.save(nib.Nifti1Image(swapped, file.affine), tmp_path / "label.nii.gz")
    values = dict(zip(task.labels, (7, 3), strict=True))
    loaded, refused = load_cases([LabeledCase("swapped", case.image, tmp_path / "label.nii.gz", values)], task)
    assert not refused
    assert np.array_equal(loaded[0].label.array, read_label(case.label).array)


def test_useless_cases_are_refused_in_one_line(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, tmp_path: Path
) -> None:
    case = synthetic_cases[0]
    image, label = nib.load(case.image), nib.load(case.label)
    values = np.asarray(label.dataobj)
    bad = {
        "empty": (image, nib.Nifti1Image(np.zeros_like(values), label.affine)),
        "grid": (image, nib.Nifti1Image(values[:-1], label.affine)),
        "shifted": (image, nib.Nifti1Image(values, label.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.01)),
        "unknown": (image, nib.Nifti1Image(values * 40, label.affine)),
        "constant": (nib.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine), label),
        "only one": (image, nib.Nifti1Image((values == 1).astype(np.uint8), label.affine)),
    }
    for name, (volume, truth) in bad.items():
        nib.save(volume, tmp_path / f"{name}_image.nii.gz")
        nib.save(truth, tmp_path / f"{name}_label.nii.gz")
        bad_case = LabeledCase(name, tmp_path / f"{name}_image.nii.gz", tmp_path / f"{name}_label.nii.gz")
        with pytest.raises(FM3DError) as caught:
            finetune([bad_case], task, quick)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value) or "no case contains tube" in str(caught.value)
    with pytest.raises(CaseError, match="no labelled case"):
        finetune([], task, quick)


def test_a_loss_that_is_no_number_ends_training_and_names_the_volumes(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentationTask, "loss", lambda task: lambda scores, *_: scores.sum() * torch.nan)
    with pytest.raises(CaseError, match=rf"diverged \(loss nan\) on .*{synthetic_cases[0].name}"):
        finetune(synthetic_cases[:1], task, quick)


def test_impossible_settings_are_refused() -> None:
    for change in (
        {"method": "magic"},
        {"backbone": "magic"},
        {"seconds": -1},
        {"steps": 0},
        {"learning_rate": 5},
        {"batch_size": 0},
        {"seed": -1},
    ):
        with pytest.raises(SettingsError, match=str(next(iter(change.values())))):
            FinetuneSettings(**change)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="device 'gpu7'"):
        finetune([], SegmentationTask(("a",)), FinetuneSettings(device="gpu7"))


def test_preprocessing_is_planned_from_the_cases(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    loaded, _ = load_cases(synthetic_cases[:3], task)
    spacing = plan_preprocessing(loaded).spacing
    assert spacing is not None
    assert np.allclose(spacing, np.median([case.image.spacing for case in loaded], axis=0), atol=1e-3)


def test_an_untrained_adapter_segments_and_knows_no_case(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    adapter = untrained_adapter(task, quick)
    volume = read_volume(synthetic_cases[0].image)
    assert adapter.card.cases == () and Predictor(adapter).segment(volume).shape == volume.array.shape
