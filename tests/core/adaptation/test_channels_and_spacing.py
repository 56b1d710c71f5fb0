"""Several channels through weights of one, voxel sizes to rotary backbones, and volumes as the weights knew them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.adapter import trained_tensors
from fm3d_core.adaptation.building import build
from fm3d_core.adaptation.cases import TrainingCase, load_cases, plan_preprocessing
from fm3d_core.adaptation.finetune import _to_cpu, batch_source, new_card
from fm3d_core.adaptation.methods import check_method
from fm3d_core.adaptation.trainer import Budget, optimise
from fm3d_core.errors import VolumeError
from fm3d_core.inference import Predictor
from fm3d_core.inference.sliding_window import sliding_window_scores
from fm3d_core.models.channels import FoldedChannels
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.models.weights.catalogue import NetworkInput, catalogue, find_entry
from fm3d_core.models.weights.importing import import_checkpoint
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing, read_volume

CT = NetworkInput(range=(0.0, 1.0), window=(-175.0, 250.0), spacing=(1.5, 1.5, 1.5))


def _weights(folder: Path, preset: str = "vit_tiny", channels: int = 1) -> Path:
    torch.save(create_backbone(BackboneSpec(preset, channels, seed=9)).state_dict(), folder / "own.pth")  # type: ignore[attr-defined]
    return folder / "own.pth"


@pytest.mark.parametrize("head", ["auto", "vit_adapter"])
@pytest.mark.parametrize("method", ["full", "lora", "linear_probe"])
def test_an_image_of_several_channels_goes_through_weights_of_one(method: str, head: str, tmp_path: Path) -> None:
    settings = FinetuneSettings(
        method=method, backbone="vit_tiny", weights=_weights(tmp_path), head=head, steps=2, batch_size=1, device="cpu"
    )
    task = SegmentationTask(("a",), Preprocessing(), channels=2)
    built = build(task, settings, check_method(method))
    assert built.spec.fold_channels and "one channel" in built.notes[0]
    image = torch.rand(2, 32, 32, 16) * 2 - 1
    case = TrainingCase("case", image, (image[1:] > 0.5).to(torch.uint8), (1.0, 1.0, 1.0))
    device = torch.device("cpu")
    source = batch_source(
        built.network, check_method(method), [case], (32, 32, 16), settings, device, ignore_progress, never_stop
    )
    optimise(
        source,
        built.network.parameters(),
        task.loss(),
        Budget(1, 2),
        learning_rate=1e-3,
        device=device,
        progress=ignore_progress,
        should_stop=never_stop,
    )
    adapter = Adapter(new_card(task, settings, built, (32, 32, 16)), _to_cpu(trained_tensors(built.network)))
    again = Adapter.load(adapter.save(tmp_path / "adapter"))
    assert again.card.backbone.fold_channels
    how = {"progress": ignore_progress, "should_stop": never_stop}
    first, second = (
        sliding_window_scores(found.build_network(), image, (32, 32, 16), device, **how)  # type: ignore[arg-type]
        for found in (adapter, again)
    )
    assert first.shape == (2, 32, 32, 16) and torch.equal(first, second)


def test_channels_are_folded_only_where_the_weights_are_of_one(tmp_path: Path) -> None:
    task, method = SegmentationTask(("a",), channels=2), check_method("full")
    random = build(task, FinetuneSettings(backbone="vit_tiny"), method)
    assert not random.spec.fold_channels and random.network.backbone.input_channels == 2
    two = FinetuneSettings(backbone="vit_tiny", weights=_weights(tmp_path, channels=2))
    assert not build(task, two, method).spec.fold_channels
    one = FinetuneSettings(backbone="residual_unet_small", weights=_weights(tmp_path, "residual_unet_small"))
    built = build(task, one, method)
    assert isinstance(built.network.backbone, FoldedChannels)
    assert built.network(torch.randn(1, 2, 16, 16, 16)).shape == (1, 2, 16, 16, 16)


def test_volumes_of_one_channel_are_refused_by_a_task_of_two(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    with pytest.raises(VolumeError, match="holds 1 frame, 2 channels are expected"):
        finetune(synthetic_cases[:1], replace(task, channels=2), quick)


def test_a_rotary_backbone_sees_the_voxels_size_in_training_and_in_the_sliding_window(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    adapter = finetune(synthetic_cases[:1], task, replace(quick, backbone="vit_small_rotary", batch_size=1))
    volume = read_volume(synthetic_cases[3].image)
    assert Predictor(adapter).segment(volume).shape == volume.array.shape
    network, image = adapter.build_network(), torch.rand(1, 48, 32, 32) * 2 - 1

    def scores(spacing: tuple[float, float, float]) -> torch.Tensor:
        return sliding_window_scores(
            network,
            image,
            (32, 32, 32),
            torch.device("cpu"),
            progress=ignore_progress,
            should_stop=never_stop,
            spacing=spacing,
        )

    assert torch.equal(scores((1, 1, 2)), scores((1, 1, 2)))
    assert not torch.allclose(scores((1, 1, 2)), scores((1, 1, 1)), atol=1e-3)


@pytest.mark.parametrize("method", ["lora", "linear_probe"])
def test_every_method_gives_a_rotary_backbone_its_spacing(
    method: str, synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings
) -> None:
    settings = replace(quick, method=method, backbone="vit_small_rotary", batch_size=1)
    assert finetune(synthetic_cases[:1], task, settings).card.training["steps"] == 2


def test_folded_channels_each_have_their_images_spacing() -> None:
    vit = VisionTransformer3D(image_size=32, width=48, depth=4, heads=3, rotary_wavelengths=(16, 1024)).eval()
    image, spacing = torch.randn(2, 3, 32, 16, 16), torch.tensor([[1.0, 1, 1], [2, 1, 4]])
    with torch.no_grad():
        together = FoldedChannels(vit, 3).features(image, spacing)[3]
        alone = vit.features(image[1:, 2:], spacing[1])[3]
    torch.testing.assert_close(together[1:, 96:], alone, atol=1e-5, rtol=1e-4)


class _Seen(torch.nn.Module):
    """A backbone that keeps what it was given."""

    kind, input_channels, feature_channels, size_multiple = "pyramid", 1, (1,), (4, 4, 4)
    feature_strides = ((1, 1, 1),)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.image = image
        return [image]


def test_the_network_sees_ct_exactly_as_the_weights_did(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1024, 1500, (16, 16, 14)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.5, 1.5, 1])), tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    preprocessing = Preprocessing(window=CT.window, input_range=CT.range, crop_foreground=False)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    backbone = _Seen()
    DenseNetwork(backbone, SegmentationTask(("a",)).build_head(backbone), preprocessing.input_range)(  # type: ignore[arg-type]
        preprocessing.prepare(volume).image[None]
    )
    expected = ((torch.from_numpy(volume.array) + 175) / 425).clamp(0, 1)  # as MONAI's ScaleIntensityRange
    torch.testing.assert_close(backbone.image[0, 0, :, :, :14], expected, atol=1e-6, rtol=0)
    assert (backbone.image[..., 14:] == 0).all()  # the padding is the weights' own background


def _case(folder: Path, values: np.ndarray, name: str) -> LabeledCase:  # type: ignore[type-arg]
    affine = np.diag([2.0, 2, 3, 1])
    nib.save(nib.Nifti1Image(values, affine), folder / f"{name}.nii.gz")
    label = np.zeros(values.shape, np.uint8)
    label[4:12, 4:12, 4:12] = 1
    nib.save(nib.Nifti1Image(label, affine), folder / f"{name}_label.nii.gz")
    return LabeledCase(name, folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz")


@pytest.fixture
def ct(tmp_path: Path) -> LabeledCase:
    return _case(tmp_path, np.random.default_rng(0).integers(-1024, 1500, (24, 24, 16)).astype(np.int16), "ct")


@pytest.fixture
def mr(tmp_path: Path) -> LabeledCase:
    return _case(tmp_path, np.random.default_rng(0).integers(0, 900, (24, 24, 16)).astype(np.int16), "mr")


def test_the_planned_preprocessing_is_that_of_the_weights(ct: LabeledCase, mr: LabeledCase) -> None:
    task = SegmentationTask(("a",))
    cases, _ = load_cases([ct, mr], task)
    for_ct, for_mr, mixed = (plan_preprocessing(chosen, CT) for chosen in (cases[:1], cases[1:], cases))
    assert for_ct == Preprocessing(spacing=(1.5, 1.5, 1.5), window=(-175, 250), input_range=(0, 1))
    assert for_mr == mixed == Preprocessing(spacing=(1.5, 1.5, 1.5), input_range=(0, 1))
    assert plan_preprocessing(cases[:1]) == Preprocessing(spacing=(2, 2, 3))


def test_the_card_says_what_was_taken_from_the_weights_and_settings_overrule(
    ct: LabeledCase, mr: LabeledCase, quick: FinetuneSettings, tmp_path: Path
) -> None:
    state = create_backbone(BackboneSpec("suprem_segresnet", seed=9)).state_dict()  # type: ignore[attr-defined]
    named = {f"module.{name.removeprefix('network.')}": tensor for name, tensor in state.items()}
    torch.save({"net": named}, tmp_path / "public.pth")
    import_checkpoint(tmp_path / "public.pth")
    settings = replace(quick, method="linear_probe", weights=Path("suprem_segresnet"))
    task = SegmentationTask(("a",))
    card = finetune([ct], task, settings).card
    assert card.task.preprocessing == Preprocessing(spacing=(1.5,) * 3, window=(-175, 250), input_range=(0, 1))
    assert "resampled to 1.5 x 1.5 x 1.5 mm" in card.notes[0] and "-175 to 250 HU become 0 to 1" in card.notes[1]
    card = finetune([mr], task, settings).card
    assert "look otherwise: percentiles become 0 to 1" in card.notes[1]
    assert finetune([mr], task, settings).build_network().input_range == (0, 1)
    plain = finetune([ct], task, replace(settings, match_weights=False)).card
    assert plain.task.preprocessing == Preprocessing(spacing=(2, 2, 3)) and plain.notes == ()
    own = Preprocessing(spacing=(3, 3, 3))
    assert finetune([ct], replace(task, preprocessing=own), settings).card.task.preprocessing == own


def test_the_catalogues_numbers_say_what_its_words_say() -> None:
    btcv = find_entry("btcv").input
    assert btcv is not None and replace(btcv, crop=None) == CT
    for entry in catalogue().values():
        if entry.input is not None and entry.input.window is not None:
            low, high = entry.input.window
            assert f"{low:g} to {high:g} HU" in entry.preprocessing["intensity"]
            assert "[{:g}, {:g}]".format(*entry.input.range) in entry.preprocessing["intensity"]
        if entry.input is not None and entry.input.spacing is not None:
            assert entry.preprocessing["spacing"].startswith(" x ".join(f"{mm:g}" for mm in entry.input.spacing))
