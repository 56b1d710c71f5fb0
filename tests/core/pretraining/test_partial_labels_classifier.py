"""What a pretraining on labelled sets has learned can be asked for by name, without a label."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from fm3d_core.adaptation import FinetuneSettings
from fm3d_core.adaptation.zero_shot import known_structures, require_zero_shot
from fm3d_core.cli.main import main
from fm3d_core.errors import WeightsError
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume

MAPS = {
    "structures": {"ellipsoid": "ellipsoid", "liver": "a tube"},
    "sets": {"Drawn": {"values": {1: "ellipsoid", 2: "liver"}}},
}


@pytest.fixture(scope="module")
def run_folder(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sets").mkdir()
    shutil.copytree(synthetic_folder, folder / "sets" / "Drawn")
    (folder / "maps.yaml").write_text(yaml.safe_dump(MAPS))
    settings = {
        "backbone": "residual_unet_small",
        "label_maps": str(folder / "maps.yaml"),
        "cache": str(folder / "cache"),
        "spacing": [1.0, 1.0, 2.0],
        "window": None,
        "intensity_range": [-1, 1],
        "crop_size": [16, 16, 16],
        "crops_per_volume": 1,
        "steps": 2,
        "warmup_steps": 0,
    }
    run = {"batch_size": 1, "workers": 0, "precision": "32-true"}
    config = {"about": "a test", "objective": "partial_labels", "settings": settings, "run": run}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main(["pretrain", str(folder / "config.yaml"), "--data", str(folder / "sets"), "--out", str(folder / "out")])
    return folder / "out"


def _settings(run_folder: Path) -> FinetuneSettings:
    return FinetuneSettings(method="none", weights=run_folder / "backbone.safetensors", device="cpu")


def test_its_structures_are_known_and_found_as_the_run_saw_them(run_folder: Path, synthetic_folder: Path) -> None:
    known = known_structures(_settings(run_folder))
    assert known is not None and known.head.classes == ("ellipsoid", "liver") and known.head.rule == "sigmoid"
    adapter = require_zero_shot(SegmentationTask(("Hepar",)), _settings(run_folder))
    preprocessing = adapter.card.task.preprocessing
    assert preprocessing is not None and preprocessing.spacing == (1.0, 1.0, 2.0)
    assert preprocessing.window is None and adapter.card.window == (16, 16, 16)
    head = safetensors.torch.load_file(run_folder / "head.safetensors")
    assert torch.equal(adapter.tensors["head.structures.weight"][0], head["classifiers.0.weight"][1])
    volume = read_volume(next((synthetic_folder / "images").iterdir()))
    assert Predictor(adapter, "cpu").segment(volume).shape == volume.shape


def test_a_backbone_without_its_head_is_still_one_and_a_head_of_another_step_is_refused(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(run_folder / "backbone.safetensors", tmp_path)
    with caplog.at_level(logging.WARNING):
        assert known_structures(_settings(tmp_path)) is None
    assert "cannot be asked for by name" in caplog.text
    head = safetensors.torch.load_file(run_folder / "head.safetensors")
    safetensors.torch.save_file(head, tmp_path / "head.safetensors", metadata={"fm3d": '{"step": 1}'})
    with pytest.raises(WeightsError, match=r"head\.safetensors cannot be used: it is of another run or step"):
        known_structures(_settings(tmp_path))
