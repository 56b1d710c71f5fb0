"""``fm3d data`` run as a user runs it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from command import run as fm3d

run = partial(fm3d, "data")


def test_a_folder_is_scanned_cached_and_shown(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("ok_ct_lung_small.mha", "ok_bigendian_int16.nii", "derived/constant7.nii.gz", "complex64.nii.gz"):
        shutil.copy(shared_data / "robustness" / name, source)
    listed, store = tmp_path / "list.json", tmp_path / "store"
    assert run("scan", source, "--out", listed) == 0
    printed = capsys.readouterr().out
    assert "3 volumes" in printed and "1 left out" in printed and "1 voxels are complex numbers" in printed
    assert [Path(row["image"]).name for row in json.loads(listed.read_text())] == [
        "constant7.nii.gz",
        "ok_bigendian_int16.nii",
        "ok_ct_lung_small.mha",
    ]
    assert len(json.loads((tmp_path / "list.left_out.json").read_text())) == 1

    assert run("cache", listed, "--out", store, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "2 volumes prepared, 0 were there already" in printed and "1 has the same value everywhere" in printed
    assert run("cache", listed, "--out", store, "--workers", 1) == 0
    assert "0 volumes prepared, 2 were there already" in capsys.readouterr().out

    assert run("show", store) == 0 and run("show", listed) == 0
    printed = capsys.readouterr().out
    assert "2 volumes with 2 frames" in printed and "smallest axis" in printed and "1 CT" in printed
    assert run("show", source / "ok_ct_lung_small.mha") == 0
    assert "MetaImage, 57 x 78 x 64 voxels" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no_list.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    mistakes: dict[str, tuple[object, ...]] = {
        "is no folder": ("scan", tmp_path / "nothing", "--out", tmp_path / "a.json"),
        "no usable volume": ("scan", tmp_path / "folder", "--out", tmp_path / "a.json"),
        "empty list": ("cache", tmp_path / "no_list.json", "--out", tmp_path / "store"),
        "cannot be read": ("cache", tmp_path / "nothing.json", "--out", tmp_path / "store"),
        "impossible crop store settings": ("cache", tmp_path / "no_list.json", "--out", tmp_path, "--bits", 99),
        "does not exist": ("show", tmp_path / "nothing"),
    }
    for reason, arguments in mistakes.items():
        assert run(*arguments) == 2, reason
        message = capsys.readouterr().err.strip()
        assert message.startswith("fm3d: ") and message.count("\n") == 0 and reason in message, message


def test_the_help_shows_the_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fm3d data scan FOLDER --out LIST.json, then fm3d data cache LIST.json --out STORE" in text
    assert run("cache", "--help") == 0
    assert "goes on where it stopped" in " ".join(capsys.readouterr().out.split())
