"""Public layouts land completely under our names; everything else is refused in one line that says what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import PUBLIC, public_content, small_public_content, swin_tensors, teacher_content, wrapped

from fm3d_core.errors import FM3DError, SettingsError, WeightsError
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.models.weights.catalogue import catalogue, find_entry
from fm3d_core.models.weights.importing import expected_tensors, import_checkpoint, recognise
from fm3d_core.models.weights.landing import land
from fm3d_core.models.zoo import BackboneSpec, create_backbone, meaning, presets

SWIN = ["btcv", "clipdriven", "fseft", "suprem_swinunetr", "selfsup", "selfsup, repository", "nv_50k"]


def _write(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", PUBLIC)
def test_every_encoder_tensor_of_a_public_file_lands_at_full_size(name: str) -> None:
    content = public_content(name)
    entry = recognise(content, Path(name))
    assert entry is not None and entry.id == PUBLIC[name]
    tensors, report = land(entry, content, expected_tensors(entry.backbone))
    encoder = 104 if "unet" in name and "swin" not in name else 126 if name == "selfsup.pt" else 157
    assert report.encoder == (encoder, encoder) and len(tensors) == report.landed[0] == encoder
    assert report.unknown == ()
    assert all(tensor.shape == expected_tensors(entry.backbone)[key].shape for key, tensor in tensors.items())


def test_the_public_3dino_file_lands_at_full_size_with_its_heads_unused() -> None:
    expected = expected_tensors("vit_large_112")
    file: dict[str, torch.Tensor] = {}
    for name, tensor in expected.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        chunked = name.replace("blocks.", f"blocks.{int(block[1]) // 6}.", 1) if block else name
        file[f"backbone.{chunked}"] = tensor
    assert file["backbone.pos_embed"].shape == (1, 344, 1024) and "backbone.blocks.3.23.ls2.gamma" in file
    for head in ("dino_head", "ibot_head"):
        for layer in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "mlp.4.weight", "mlp.4.bias"):
            file[f"{head}.{layer}"] = torch.empty(1, device="meta")
        file |= {f"{head}.last_layer.weight_{part}": torch.empty(1, device="meta") for part in "gv"}
    assert len(file) == 359  # as many as the public file holds
    entry = recognise({"teacher": file}, Path("any.pth"))
    assert entry is not None and entry.id == "3dino_vit"
    _, report = land(entry, {"teacher": file}, expected)
    assert report.encoder == (343, 343) and len(report.unused) == 16 and report.random == report.unknown == ()


@pytest.mark.parametrize("layout", SWIN)
def test_a_file_of_each_layout_comes_back_exactly(layout: str, tmp_path: Path) -> None:
    id = layout.split(",")[0]
    path = _write(tmp_path / "file.pth", small_public_content(layout))
    card = import_checkpoint(path, id, backbone="swin_unetr_tiny_legacy")
    assert (card.id, card.backbone, card.source) == (id, "swin_unetr_tiny_legacy", "file.pth")
    assert card.report.unknown == ()
    state = create_backbone(BackboneSpec(card.backbone, seed=1, weights=card.sha256)).state_dict()  # type: ignore[attr-defined]
    original = swin_tensors()
    for name, tensor in state.items():
        if name not in card.report.random:
            assert torch.equal(tensor, original[name.removeprefix("network.")]), name
    only_encoder = id in ("selfsup", "nv_50k")
    assert card.report.encoder == ((126, 126) if only_encoder else (157, 157))
    assert len(card.report.random) == (31 if only_encoder else 0)
    assert any("stay random: encoder1" in line for line in card.report.lines()) == only_encoder


def test_the_part_that_a_file_does_not_hold_is_random_from_the_seed(tmp_path: Path) -> None:
    path = _write(tmp_path / "file.pth", small_public_content("selfsup"))
    sha256 = import_checkpoint(path, "selfsup", "swin_unetr_tiny_legacy").sha256
    first, again, other = (
        create_backbone(BackboneSpec("swin_unetr_tiny_legacy", seed=seed, weights=sha256)).state_dict()  # type: ignore[attr-defined]
        for seed in (1, 1, 2)
    )
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert differ and not any("swinViT" in name for name in differ)


def test_the_segresnet_of_suprem_lands_without_its_classifier(tmp_path: Path) -> None:
    card = import_checkpoint(_write(tmp_path / "file.pth", small_public_content("suprem_segresnet")))
    assert card.id == "suprem_segresnet" and card.report.encoder == (81, 81)
    assert card.report.unused == ("module.conv_final.2.conv.weight", "module.conv_final.2.conv.bias")


def test_the_teacher_checkpoint_of_the_reference_gives_the_expected_class_token(
    parity_folder: Path,
) -> None:
    content = torch.load(parity_folder / "teacher_checkpoint_tiny.pth", weights_only=True)
    expected = torch.load(parity_folder / "teacher_checkpoint_tiny_expected.pt", weights_only=True)
    model = VisionTransformer3D(image_size=48, width=48, depth=4, heads=3).eval()
    tensors, report = land(find_entry("3dino_vit"), content, model.state_dict())
    model.load_state_dict(tensors)
    assert report.encoder == (63, 63) and len(report.unused) == 16
    with torch.no_grad():
        torch.testing.assert_close(model(expected["x"]), expected["cls"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunks", [1, 2, 4, 12])
def test_blocks_numbered_through_land_in_any_number_of_chunks(chunks: int) -> None:
    _, report = land(find_entry("3dino_vit"), teacher_content(chunks), expected_tensors("vit_tiny"))
    assert report.encoder[0] == report.encoder[1] == len(expected_tensors("vit_tiny"))


def test_wrong_block_chunks_are_said() -> None:
    entry, expected = find_entry("3dino_vit"), expected_tensors("vit_tiny")
    with pytest.raises(WeightsError, match="wrong block chunks: block 0 is in the chunks 0 and 1"):
        land(entry, teacher_content(2, renumber=True), expected)
    swapped = teacher_content(2)["teacher"]
    swapped = {re.sub(r"blocks\.([01])\.", lambda m: f"blocks.{1 - int(m[1])}.", k): v for k, v in swapped.items()}
    with pytest.raises(WeightsError, match="wrong block chunks: block 6 is in chunk 0, before the chunk"):
        land(entry, {"teacher": swapped}, expected)
    lost = {k: v for k, v in teacher_content(4)["teacher"].items() if not re.search(r"blocks\.[123]\.", k)}
    with pytest.raises(WeightsError, match=r"126 of the 175 encoder tensors.*blocks 3-11 \(126\)"):
        land(entry, {"teacher": lost}, expected)


def test_less_or_more_than_the_encoder_another_shape_and_bad_values_are_refused() -> None:
    entry, expected = find_entry("btcv"), expected_tensors("swin_unetr_tiny_legacy")
    good = swin_tensors()
    key = "swinViT.layers1.0.blocks.0.attn.qkv.weight"
    bad = {
        r"1 of the 157 encoder tensors of btcv are missing": {k: v for k, v in good.items() if k != key},
        r"another shape .*\(36, 11\) instead of \(36, 12\)": {**good, key: torch.zeros(36, 11)},
        r"1 encoder tensors that the backbone has no place for": {**good, "swinViT.layers1c.0.conv.weight": good[key]},
        r"values that are not finite": {**good, key: torch.full((36, 12), float("nan"))},
        r"holds torch.int64 instead of torch.float32": {**good, key: torch.zeros(36, 12, dtype=torch.int64)},
        r"157 of the 157 encoder tensors": teacher_content()["teacher"],
    }
    for reason, tensors in bad.items():
        with pytest.raises(WeightsError, match=reason) as caught:
            land(entry, {"state_dict": tensors}, expected, Path("some/file.pt"))
        assert str(caught.value).startswith("some/file.pt: ") and "\n" not in str(caught.value)


def test_unknown_extras_are_reported_and_not_used() -> None:
    content = wrapped({**swin_tensors(), "new_head.weight": torch.zeros(2)}, "state_dict")
    _, report = land(find_entry("btcv"), content, expected_tensors("swin_unetr_tiny_legacy"))
    assert report.unknown == ("new_head.weight",)
    assert "1 unknown tensors of the file are not used: new_head" in report.lines()


def test_half_precision_lands_as_the_backbones_own_type() -> None:
    content = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in swin_tensors().items()}
    tensors, _ = land(find_entry("btcv"), {"state_dict": content}, expected_tensors("swin_unetr_tiny_legacy"))
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float32", "torch.int64"}


def test_what_names_cannot_tell_apart_is_asked_for_unless_the_file_keeps_its_name(tmp_path: Path) -> None:
    for id, published in {"clipdriven": "clipdriven.pth", "suprem_swinunetr": "suprem_swinunetr.pth"}.items():
        content = small_public_content(id)
        entry = recognise(content, tmp_path / published)
        assert entry is not None and entry.id == id
        with pytest.raises(WeightsError, match=r"names of clipdriven or suprem_swinunetr.*--as"):
            recognise(content, tmp_path / "weights.pth")
    # MONAI's own names do not say in which order the patches merge
    with pytest.raises(WeightsError, match=r"names of btcv or monai_swinunetr.*--as"):
        recognise(small_public_content("btcv"), tmp_path / "model.pt")
    assert recognise({"a": torch.zeros(1)}, tmp_path / "model.pt") is None


def test_weights_and_a_backbone_of_another_meaning_contradict(tmp_path: Path) -> None:
    path = _write(tmp_path / "btcv.pt", small_public_content("btcv"))
    for backbone in ("swin_unetr_tiny", "vit_tiny"):
        with pytest.raises(SettingsError, match=rf"btcv are for .*patch_merging legacy, not for {backbone}"):
            import_checkpoint(path, backbone=backbone)
    sha256 = import_checkpoint(path, backbone="swin_unetr_tiny_legacy").sha256
    with pytest.raises(WeightsError, match=r"need patch_merging legacy, not monai-1.5"):
        create_backbone(BackboneSpec("swin_unetr_tiny", weights=sha256))
    with pytest.raises(WeightsError, match="with 2 image channels"):
        create_backbone(BackboneSpec("swin_unetr_tiny_legacy", input_channels=2, weights=sha256))


def test_every_entry_is_complete_and_fits_its_backbone() -> None:
    assert {"3dino_vit", "selfsup", "btcv", "clipdriven", "fseft"} < set(catalogue())
    assert {"suprem_swinunetr", "suprem_unet", "suprem_segresnet"} < set(catalogue())
    for entry in catalogue().values():
        assert entry.backbone in presets() and entry.licence and entry.citation and entry.about and entry.page
        assert {"intensity", "spacing", "window"} == set(entry.preprocessing)
        for pattern in (entry.encoder, entry.unused, entry.signature, *(pattern for pattern, _ in entry.rename)):
            re.compile(pattern)
        names = expected_tensors(entry.backbone)
        assert any(re.search(entry.encoder, name) for name in names)
        public_swin = "swin_unetr" in entry.backbone and entry.id != "monai_swinunetr"
        assert (entry.properties.get("patch_merging") == "legacy") == public_swin
        if public_swin:
            assert meaning(presets()[entry.backbone]["config"]) == dict(entry.properties)


def test_an_unknown_id_names_the_known_ones() -> None:
    with pytest.raises(FM3DError, match=r"unknown weights 'magic'.*btcv"):
        find_entry("magic")


def test_weights_for_other_channels_say_how_many(tmp_path: Path) -> None:
    two = create_backbone(BackboneSpec("vit_tiny", input_channels=2)).state_dict()  # type: ignore[attr-defined]
    torch.save(two, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"images of 2 channels, not 1: fm3d weights import takes --channels"):
        import_checkpoint(tmp_path / "two.pth", backbone="vit_tiny")
    assert import_checkpoint(tmp_path / "two.pth", backbone="vit_tiny", input_channels=2).input_channels == 2
    with pytest.raises(WeightsError, match=r"is a folder, not a weight file"):
        import_checkpoint(tmp_path)
