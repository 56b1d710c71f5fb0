"""What is no image at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fm3d_core.errors import VolumeError
from fm3d_core.volumes import case_name, draw_case, read_volume, write_nifti


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"nowhere\.nii: does not exist"):
        read_volume(tmp_path / "nowhere.nii")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(VolumeError, match="is no file"):
        read_volume(tmp_path / "pipe.nii")


def test_an_analyze_image_is_refused_because_left_and_right_are_unknown(tmp_path: Path) -> None:
    import nibabel

    nibabel.save(nibabel.AnalyzeImage(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.img")
    with pytest.raises(VolumeError, match=r"Analyze 7\.5"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize("content", [b"\x80\x04\x95", b"PK\3\4", b"\x93NUMPY", b"GIF89a", b"\0" * 500, b"\x1f\x8b"])
def test_other_content_is_refused_whatever_the_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError, match=r"not an image|cut short|damaged"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["mit Leerzeichen.nii", "体积🧠.nii.gz", "a.b.c.nii.gz", "UPPER.NII.GZ"])
def test_unusual_names_work(tmp_path: Path, name: str) -> None:
    image, _, affine = draw_case(0, shape=(24, 24, 24))
    plain = write_nifti(tmp_path / "plain.nii", image, affine)
    plain.rename(tmp_path / name)
    assert read_volume(tmp_path / name).name == case_name(name)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_to_a_file_is_refused_or_harmless_but_never_another_error(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    suffix = ("nii", "nii.gz", "mha", "nrrd", "mgz")[seed % 5]
    path = tmp_path / f"a.{suffix}"
    _write_any(path)
    content = bytearray(path.read_bytes())
    for place in random.integers(0, min(len(content), 400), 5):
        content[place] = random.integers(0, 256)
    path.write_bytes(content)
    try:
        volume = read_volume(path, frame=0, limit_bytes=2**24)
    except VolumeError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(volume.array).all()


def _write_any(path: Path) -> None:
    import nibabel
    import SimpleITK as sitk

    array = np.arange(720, dtype=np.int16).reshape(8, 9, 10)
    if path.suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(array, np.eye(4)), path)
    elif path.suffix in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path), True)
    else:
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def test_importing_volumes_loads_nothing_heavy() -> None:
    code = "import sys, fm3d_core.volumes, fm3d_core.evaluation; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"torch", "monai", "nibabel", "SimpleITK", "pydicom", "scipy", "matplotlib", "psutil"}
    assert not heavy & set(loaded)
