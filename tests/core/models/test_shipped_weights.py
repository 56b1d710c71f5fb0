"""Weights that come with the package: what the index names is there, loads, is small, and is what finetuning takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings
from fm3d_core.adaptation.finetune import untrained_adapter
from fm3d_core.cli.main import main
from fm3d_core.errors import SettingsError, WeightsError
from fm3d_core.files import sha256_of
from fm3d_core.models.weights import shipped_weights as module
from fm3d_core.models.weights.importing import choose_weights
from fm3d_core.models.weights.shipped_weights import FOLDER, shipped_for, shipped_weights
from fm3d_core.models.weights.store import cached_weights, channels_of_weights
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask


def test_the_index_and_the_files_belong_together() -> None:
    files = {path.name for path in FOLDER.glob("*.safetensors")}
    assert files == {entry.file for entry in shipped_weights().values()}
    assert all(sha256_of(entry.path) == entry.sha256 for entry in shipped_weights().values())
    assert sum(entry.path.stat().st_size for entry in shipped_weights().values()) < 25e6
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(id in card and entry.sha256 in card for id, entry in shipped_weights().items())


@pytest.mark.parametrize("id", list(shipped_weights()))
def test_each_fills_its_whole_backbone(id: str) -> None:
    entry = shipped_weights()[id]
    preset, sha256 = choose_weights(id, None)
    assert (preset, sha256) == (entry.backbone, entry.sha256)
    assert channels_of_weights(entry.sha256) == 1
    shipped = create_backbone(BackboneSpec(preset, weights=sha256)).state_dict()  # type: ignore[attr-defined]
    random = create_backbone(BackboneSpec(preset)).state_dict()  # type: ignore[attr-defined]
    assert all(not torch.equal(shipped[name], random[name]) for name in random if random[name].ndim > 1)
    assert all(bool(tensor.isfinite().all()) and tensor.dtype == random[name].dtype for name, tensor in shipped.items())


def test_the_default_backbone_begins_with_them() -> None:
    entry = shipped_for("residual_unet_small")
    assert entry is not None
    task = SegmentationTask(("a",))
    assert untrained_adapter(task, FinetuneSettings()).card.backbone.weights == entry.sha256
    assert untrained_adapter(task, FinetuneSettings(weights=Path("random"))).card.backbone.weights is None
    several = untrained_adapter(SegmentationTask(("a",), channels=3), FinetuneSettings()).card.backbone
    assert several.weights == entry.sha256 and several.fold_channels


def test_an_adapter_that_holds_all_weights_needs_no_weight_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a computer with another version of FM3D, whose shipped weights are others."""
    full = untrained_adapter(SegmentationTask(("a",)), FinetuneSettings(method="full")).save(tmp_path / "full")
    probe = untrained_adapter(SegmentationTask(("a",)), FinetuneSettings(method="linear_probe")).save(tmp_path / "lp")
    monkeypatch.setattr(module, "shipped_weights", dict)
    assert Adapter.load(full).build_network() is not None
    with pytest.raises(WeightsError, match="not on this computer"):
        Adapter.load(probe).build_network()


def test_other_backbones_and_changed_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    id, entry = next(iter(shipped_weights().items()))
    with pytest.raises(SettingsError, match="are for"):
        choose_weights(id, "vit_tiny")
    (tmp_path / entry.file).write_bytes(b"changed")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(WeightsError, match=r"changed.*Install FM3D again"):
        cached_weights(entry.sha256)


def test_the_command_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    id = next(iter(shipped_weights()))
    main(["weights", "list"])
    assert id in capsys.readouterr().out
    main(["weights", "info", id])
    assert "MODEL_CARD.md" in capsys.readouterr().out
