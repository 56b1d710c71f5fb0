"""Every backbone keeps the protocol, takes any size through the network, and has an identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.models.backbone import Backbone
from fm3d_core.models.decoders import UNETRHead
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.network import DenseNetwork, pad_to_multiple
from fm3d_core.models.zoo import (
    BackboneSpec,
    backbone_sha256,
    create_backbone,
    import_weights,
    presets,
    weights_folder,
)
from fm3d_core.tasks import SegmentationTask

SMALL = ["residual_unet_small", "swin_unetr_tiny", "suprem_segresnet", "vit_tiny"]


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_gives_maps_of_the_channels_and_strides_it_states(name: str) -> None:
    backbone = create_backbone(BackboneSpec(name))
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        maps = backbone.features(torch.randn(1, 1, 64, 64, 64))
    assert [features.shape[1] for features in maps] == list(backbone.feature_channels)
    assert [tuple(64 // size for size in features.shape[-3:]) for features in maps] == list(backbone.feature_strides)
    assert all(64 % step == 0 for step in backbone.size_multiple)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_gives_one_score_per_voxel_for_any_size_and_trains(name: str) -> None:
    backbone = create_backbone(BackboneSpec(name))
    network = DenseNetwork(backbone, SegmentationTask(("a", "b")).build_head(backbone)).train()
    scores = network(torch.randn(1, 1, 35, 51, 38))
    assert scores.shape == (1, 3, 35, 51, 38)
    scores.square().mean().backward()
    untouched = {"backbone.mask_token", "backbone.cls_token"}  # a ViT's class token ends in its own output
    assert all(
        parameter.grad is not None or any(key in label for key in untouched)
        for label, parameter in network.named_parameters()
    )


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_identity_and_another_seed_another(name: str) -> None:
    torch.manual_seed(1)
    first = backbone_sha256(create_backbone(BackboneSpec(name, seed=3)))
    torch.manual_seed(2)
    assert backbone_sha256(create_backbone(BackboneSpec(name, seed=3))) == first
    assert backbone_sha256(create_backbone(BackboneSpec(name, seed=4))) != first


def test_every_preset_names_an_existing_class_and_an_unknown_one_is_refused() -> None:
    assert {"vit_tiny", "vit_small", "vit_base", "vit_large", "vit_giant"} < set(presets())
    for name in presets():
        with torch.device("cpu" if name.startswith("swin") else "meta"):  # MONAI's Swin cannot be built without memory
            assert create_backbone(BackboneSpec(name)).feature_channels
    with pytest.raises(SettingsError, match=r"unknown backbone 'vit_enormous'.*vit_large"):
        create_backbone(BackboneSpec("vit_enormous"))


def test_the_large_vit_has_the_parameter_count_of_the_public_weights() -> None:
    with torch.device("meta"):
        large = create_backbone(BackboneSpec("vit_large"))
    assert sum(tensor.numel() for tensor in large.state_dict().values()) == pytest.approx(306.78e6, rel=1e-4)  # type: ignore[attr-defined]


def test_a_linear_head_equals_a_classifier_on_the_concatenated_maps() -> None:
    torch.manual_seed(0)
    head = LinearHead((4, 6), classes=3)
    fine, coarse = torch.randn(2, 4, 8, 8, 8), torch.randn(2, 6, 4, 4, 4)
    upsampled = torch.nn.functional.interpolate(coarse, size=(8, 8, 8), mode="trilinear", align_corners=False)
    weight = torch.cat([layer.weight for layer in head.classifiers], dim=1)  # type: ignore[misc]
    expected = torch.nn.functional.conv3d(torch.cat([fine, upsampled], 1), weight, head.classifiers[0].bias)  # type: ignore[arg-type]
    torch.testing.assert_close(head([fine, coarse], torch.empty(2, 1, 8, 8, 8)), expected, atol=1e-5, rtol=1e-5)


def test_the_unetr_decoder_refuses_another_patch() -> None:
    with pytest.raises(ValueError, match="16 x 16 x 16"):
        UNETRHead(width=24, classes=3, patch_size=(8, 8, 8))


@pytest.mark.parametrize("name", ["residual_unet_small", "swin_unetr_tiny_legacy", "suprem_segresnet"])
@pytest.mark.parametrize("size", [(8, 3, 8), (1, 1, 1)])
def test_a_pyramid_trains_on_volumes_smaller_than_its_coarsest_step(name: str, size: tuple[int, int, int]) -> None:
    backbone = create_backbone(BackboneSpec(name))
    network = DenseNetwork(backbone, SegmentationTask(("a",)).build_head(backbone)).train()
    image = torch.randn(1, 1, *size)
    coarsest = tuple(
        edge // step for edge, step in zip(network.prepare(image).shape[-3:], backbone.feature_strides[-1], strict=True)
    )
    assert torch.Size(coarsest).numel() > 1  # instance norm needs more than one value per channel
    scores = network(image)
    assert scores.shape == (1, 2, *size) and scores.isfinite().all()
    scores.square().mean().backward()


def test_a_thin_volume_is_not_padded_more_than_its_norm_needs() -> None:
    network = DenseNetwork(create_backbone(BackboneSpec("swin_unetr_tiny")), torch.nn.Identity())
    assert network.prepare(torch.zeros(1, 1, 40, 20, 20)).shape[-3:] == (64, 32, 32)
    assert network.prepare(torch.zeros(1, 1, 32, 32, 32)).shape[-3:] == (64, 64, 64)
    assert network.prepare(torch.zeros(1, 1, 64, 32, 96)).shape[-3:] == (64, 32, 96)


def test_padding_appends_background_only() -> None:
    image = torch.zeros(1, 1, 5, 8, 7)
    padded = pad_to_multiple(image, (4, 4, 4))
    assert padded.shape == (1, 1, 8, 8, 8)
    assert torch.equal(padded[..., :5, :, :7], image) and (padded[..., 5:, :, :] == -1).all()


def test_imported_weights_come_back_exactly_and_are_named_by_their_hash(tmp_path: Path) -> None:
    trained = create_backbone(BackboneSpec("residual_unet_small", seed=7))
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "weights.pth")  # type: ignore[attr-defined]
    sha256 = import_weights(tmp_path / "weights.pth", "residual_unet_small")
    assert [path.name for path in weights_folder().glob("*.safetensors")] == [f"{sha256}.safetensors"]
    again = create_backbone(BackboneSpec("residual_unet_small", weights=sha256))
    assert backbone_sha256(again) == backbone_sha256(trained)


def test_an_unreadable_or_foreign_weight_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a model")
    (tmp_path / "text.safetensors").write_text("not a model")
    torch.save({"model": create_backbone(BackboneSpec("vit_tiny")).state_dict()}, tmp_path / "vit.pth")  # type: ignore[attr-defined]
    torch.save({"state_dict": torch.nn.Linear(2, 2)}, tmp_path / "pickled.pth")
    for name, reason in {
        "text.pth": "not a readable weight file",
        "text.safetensors": "not a readable weight file",
        "pickled.pth": "not a readable weight file",
        "absent.pth": "no such weight file",
        "vit.pth": "36 of the 36 encoder tensors of residual_unet_small are missing",
    }.items():
        with pytest.raises(WeightsError, match=reason) as caught:
            import_weights(tmp_path / name, "residual_unet_small")
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not weights_folder().exists() or not list(weights_folder().iterdir())


def test_missing_weights_of_an_adapter_name_where_they_belong() -> None:
    with pytest.raises(WeightsError, match="not on this computer"):
        create_backbone(BackboneSpec("vit_tiny", weights="0" * 64))
