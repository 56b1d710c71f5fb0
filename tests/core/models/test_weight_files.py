"""Files from outside: read without running anything, kept privately and exactly, named precisely when they are bad."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from layouts import small_public_content, teacher_content

from fm3d_core.errors import SettingsError, StorageError, WeightsError
from fm3d_core.files import sha256_of
from fm3d_core.models.weights.importing import choose_weights, import_checkpoint
from fm3d_core.models.weights.reading import read_checkpoint
from fm3d_core.models.weights.store import damaged_weights, read_header, weight_cards, weights_folder
from fm3d_core.models.zoo import BackboneSpec, create_backbone


class _Attack:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f'touch "{self.marker}"',)


def _save_attack(path: Path, attack: _Attack) -> None:
    torch.save({"teacher": {"backbone.cls_token": torch.zeros(1), "x": attack}}, path)


def _save_old_attack(path: Path, attack: _Attack) -> None:
    torch.save({"state_dict": attack}, path, _use_new_zipfile_serialization=False)


def _save_bare_attack(path: Path, attack: _Attack) -> None:
    path.write_bytes(pickle.dumps(attack, protocol=2))


@pytest.mark.parametrize("save", [_save_attack, _save_old_attack, _save_bare_attack])
def test_a_malicious_pickle_is_refused_and_does_not_run(save: Callable[[Path, _Attack], None], tmp_path: Path) -> None:
    marker, path = tmp_path / "attacked", tmp_path / "weights.pth"
    save(path, _Attack(marker))
    with pytest.raises(WeightsError, match=r"posix\.system, which is not data; nothing of it was run") as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Attack(marker)))  # noqa: S301  # the attack is a real one
    assert marker.exists()


def test_files_that_are_no_weights_are_named_for_what_they_are(tmp_path: Path) -> None:
    torch.save(teacher_content(), tmp_path / "good.pth")
    safetensors.torch.save_file({"a": torch.zeros(100)}, tmp_path / "good.safetensors")
    good, safe = (tmp_path / "good.pth").read_bytes(), (tmp_path / "good.safetensors").read_bytes()
    with torch.no_grad():
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "program.pt")
    files = {
        "empty.pth": (b"", "it is empty"),
        "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        "page.pth": (b"\n<!DOCTYPE html><html>Please log in</html>", "it is a web page"),
        "text.pth": (b"not a model", "neither a torch nor a safetensors file"),
        "text.safetensors": (b"not a model", "neither a torch nor a safetensors file"),
        "random.pth": (np.random.default_rng(0).bytes(4000), "neither a torch nor a safetensors file"),
        "half.pth": (good[: len(good) // 2], "damaged or not complete"),
        "short.pth": (good[:-10], "damaged or not complete"),
        "start.pth": (good[:100], "damaged or not complete"),
        "half.safetensors": (safe[:200], "damaged or not complete"),
        "huge_header.safetensors": ((2**62).to_bytes(8, "little") + b"{" + bytes(50), "damaged or not complete"),
        "program.pt": ((tmp_path / "program.pt").read_bytes(), "TorchScript program"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"not a readable weight file.*{reason}") as caught:
            read_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(WeightsError, match="no such weight file"):
        read_checkpoint(tmp_path / "absent.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list instead of named tensors"):
        read_checkpoint(tmp_path / "list.pth")


def test_plain_numbers_beside_the_tensors_are_fine_and_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(2)}, "best_acc": np.float64(0.8), "step": np.int64(3)}
    torch.save(content, tmp_path / "weights.pt")
    assert read_checkpoint(tmp_path / "weights.pt")["best_acc"] == 0.8
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "weights.pth")
    assert torch.equal(read_checkpoint(tmp_path / "weights.pth")["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ResidualUNet", 5),
        ("ResidualUNet", [1, 2]),
        ("ResidualUNet", "channels"),
        ("ResidualUNet", {"channels": 8}),
        ("ResidualUNet", {"channels": "8, 16"}),
        ("ResidualUNet", {"channels": {"8": 16}}),
        ("ResidualUNet", {"channels": [8, "16"]}),
        ("ResidualUNet", {"channels": [8, [16]]}),
        ("ResidualUNet", {"channels": []}),
        ("ResidualUNet", {"channels": [8, 10**30]}),
        ("ResidualUNet", {"channels": [8] * 100_000}),
        ("ResidualUNet", {"channels": [8, -16]}),
        ("ResidualUNet", {"encoder_convolutions": 10**9}),
        ("ResidualUNet", {"surprise": 1}),
        ("ResidualUNet", {"self": 1}),
        ("VisionTransformer3D", {"depth": 10**9}),
        ("VisionTransformer3D", {"heads": 0}),
        ("VisionTransformer3D", {"width": "192"}),
        ("VisionTransformer3D", {"image_size": 10**30}),
        ("VisionTransformer3D", {"image_size": float("nan")}),
        ("VisionTransformer3D", {"mlp_ratio": float("inf")}),
        ("VisionTransformer3D", {"layer_scale": "much"}),
        ("SwinUNETRBackbone", {"feature_size": 12_000}),
        ("SwinUNETRBackbone", {"feature_size": None}),
        (["ResidualUNet"], {}),
        ("Magic", {}),
        (None, {}),
    ],
)
def test_a_hostile_header_is_refused_by_the_files_name(name: Any, config: Any, tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    header = {"objective": "pretext", "preset": None, "class": name, "config": config}
    safetensors.torch.save_file({"a": torch.zeros(40_000)}, path, {"fm3d": json.dumps(header)})
    with pytest.raises(WeightsError) as caught:
        choose_weights(path, None)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("header", ["5", "[1]", "null", "{", "[" * 50_000, '{"preset": [1]}', '{"preset": {"a": 1}}'])
def test_a_header_that_is_none_of_ours_does_not_count(header: str, tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(4)}, path, {"fm3d": header})
    with pytest.raises(WeightsError) as caught:
        choose_weights(path, None)
    assert str(path) in str(caught.value)


def _import(tmp_path: Path, name: str = "btcv.pt", **settings: Any) -> Any:
    torch.save(small_public_content("btcv"), tmp_path / name)
    return import_checkpoint(tmp_path / name, backbone="swin_unetr_tiny_legacy", **settings)


def test_a_converted_copy_is_private_named_by_its_hash_and_says_where_it_comes_from(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        card = _import(tmp_path)
    finally:
        os.umask(old)
    folder = weights_folder()
    file, text = folder / f"{card.sha256}.safetensors", folder / f"{card.sha256}.json"
    assert {path.name for path in folder.iterdir()} == {file.name, text.name}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(text.stat().st_mode) == 0o600
    assert sha256_of(file) == card.sha256
    written = json.loads(text.read_text())
    assert written["id"] == "btcv" and written["source"] == "btcv.pt" and str(tmp_path) not in text.read_text()
    assert written["source_sha256"] == sha256_of(tmp_path / "btcv.pt")
    assert "not stated" in written["licence"] and "2111.14791" in written["citation"]
    assert written["report"]["encoder"] == [157, 157]
    assert weight_cards() == [card]
    assert read_header(file) == {"properties": {"patch_merging": "legacy"}, "random": []}


def test_the_same_tensors_make_the_same_copy_again(tmp_path: Path) -> None:
    first = _import(tmp_path)
    assert _import(tmp_path, "again.pt", id="btcv").sha256 == first.sha256
    assert [card.source for card in weight_cards()] == ["again.pt"]


def test_tensors_that_share_memory_are_kept_too(tmp_path: Path) -> None:
    content = small_public_content("btcv")
    state = content["state_dict"]
    names = [name for name in state if name.endswith("mlp.linear1.bias") and len(state[name]) == 48]
    whole = torch.arange(48.0 * len(names)).reshape(len(names), 48)
    state |= {name: whole[index] for index, name in enumerate(names)}
    torch.save(content, tmp_path / "btcv.pt")
    card = import_checkpoint(tmp_path / "btcv.pt", backbone="swin_unetr_tiny_legacy")
    loaded = create_backbone(BackboneSpec(card.backbone, weights=card.sha256)).state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(loaded[f"network.{name}"], whole[index]) for index, name in enumerate(names))


def test_a_changed_copy_is_found(tmp_path: Path) -> None:
    card = _import(tmp_path)
    assert damaged_weights() == []
    file = weights_folder() / f"{card.sha256}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (weights_folder() / f"{'0' * 64}.json").write_text("{}")
    assert [path.name for path, _ in damaged_weights()] == [file.name, f"{'0' * 64}.json"]
    file.write_bytes(content[:1000])
    with pytest.raises(WeightsError, match="the converted copy is damaged"):
        create_backbone(BackboneSpec(card.backbone, weights=card.sha256))


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FM3D_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        _import(tmp_path)


def test_what_stays_random_is_said_when_such_weights_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(small_public_content("selfsup"), tmp_path / "selfsup.pt")
    import_checkpoint(tmp_path / "selfsup.pt", backbone="swin_unetr_tiny_legacy")
    choose_weights("selfsup", None)
    assert "31 tensors are not in the file and stay random" in caplog.text


def test_weights_choose_the_backbone_and_a_contradiction_is_said(tmp_path: Path) -> None:
    assert choose_weights(None, None) == ("residual_unet_small", None)
    assert choose_weights(None, "vit_tiny") == ("vit_tiny", None)
    with pytest.raises(WeightsError, match=r"btcv are not on this computer.*fm3d weights fetch btcv"):
        choose_weights("btcv", None)
    card = _import(tmp_path)
    here = ("swin_unetr_tiny_legacy", card.sha256)
    assert choose_weights("btcv", None) == choose_weights(Path("btcv"), "swin_unetr_tiny_legacy") == here
    assert choose_weights(tmp_path / "btcv.pt", "swin_unetr_tiny_legacy") == here
    with pytest.raises(SettingsError, match=r"btcv are for the backbone swin_unetr_tiny_legacy.*not for vit_tiny"):
        choose_weights("btcv", "vit_tiny")
    with pytest.raises(SettingsError, match="unknown backbone 'magic'"):
        choose_weights("btcv", "magic")
    with pytest.raises(WeightsError, match="no such weight file"):
        choose_weights("absent.pth", None)
    with pytest.raises(WeightsError, match="not on this computer"):
        create_backbone(BackboneSpec("vit_tiny", weights="../" + card.sha256[3:]))
    own = create_backbone(BackboneSpec("residual_unet_small", seed=3)).state_dict()  # type: ignore[attr-defined]
    torch.save(own, tmp_path / "own.pth")
    assert choose_weights(tmp_path / "own.pth", None)[0] == "residual_unet_small"
    with pytest.raises(WeightsError, match=r"no known layout.*--backbone"):
        import_checkpoint(tmp_path / "own.pth")
