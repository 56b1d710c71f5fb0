"""``fm3d features``: what is computed ahead is what training then finds; a file that cannot be read is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import run


def test_training_finds_what_was_computed_ahead(
    synthetic_folder: Path,
    tmp_path: Path,
    fm3d_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data = Path(shutil.copytree(synthetic_folder, tmp_path / "data"))
    (data / "images" / "synthetic_008.nii.gz").write_bytes(b"nothing")
    assert run("features", data, "--device", "cpu", "--store", tmp_path / "store") == 0
    said = capsys.readouterr().out
    assert "Features of 3 volumes" in said and "Left out" in said and "synthetic_008" in said

    def computed_again(*_: object) -> None:
        raise AssertionError("the features are there")

    monkeypatch.setattr("fm3d_core.adaptation.batches.window_features", computed_again)
    learn = ("finetune", synthetic_folder, "--shots", 1, "--steps", 1, "--device", "cpu")
    assert run(*learn, "--store", tmp_path / "store") == 0
    assert list((fm3d_home / "features").glob("*/*.safetensors"))
