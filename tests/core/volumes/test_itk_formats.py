"""NRRD and MetaImage: geometry in RAS, and files whose data are not what their header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fm3d_core.errors import VolumeError
from fm3d_core.volumes import Volume, inspect_header, read_volume, write_label

ALL_SUFFIXES = ["nrrd", "nhdr", "mha", "mhd"]


def save(
    path: Path, *, compressed: bool = False, shape: tuple[int, ...] = (8, 7, 6), spacing: float = 1.5
) -> np.ndarray:
    """Random int16 voxels, oblique; returns them as (x, y, z)."""
    array = np.random.default_rng(0).integers(-1000, 1000, shape[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(array, isVector=False)
    if len(shape) == 3:
        image.SetSpacing((spacing, 2.0, 4.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), compressed)
    return array.T


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_voxels_are_kept_and_the_affine_turns_from_lps_to_ras(tmp_path: Path, suffix: str, compressed: bool) -> None:
    array = save(tmp_path / f"a.{suffix}", compressed=compressed)
    volume = read_volume(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(volume.to_source(volume.array), array)
    expected = np.diag([-1, -1, 1, 1]) @ [[1.2, -1.2, 0, 10], [0.9, 1.6, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.source.affine, expected, atol=1e-9)
    assert inspect_header(tmp_path / f"a.{suffix}").dtype == "int16"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("lost", [1, 200])
def test_cut_data_are_refused_though_simpleitk_would_fill_in_zeros(
    tmp_path: Path, suffix: str, compressed: bool, lost: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, compressed=compressed)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(VolumeError, match="cut short"):
        read_volume(path)


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_a_flipped_bit_in_compressed_data_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, compressed=True)
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"damaged|cut short"):
        read_volume(path)


@pytest.mark.parametrize(("suffix", "old"), [("nrrd", b"sizes: 8 7 6"), ("mha", b"DimSize = 8 7 6")])
def test_a_header_that_claims_30000_cubed_is_refused_before_memory_is_taken(
    tmp_path: Path, suffix: str, old: bytes
) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path)
    path.write_bytes(path.read_bytes().replace(old, old.replace(b"8 7 6", b"30000 30000 30000")))
    with pytest.raises(VolumeError, match=r"needs 150,874\.3 GiB"):
        read_volume(path)


@pytest.mark.parametrize(("suffix", "old"), [("nrrd", b"sizes: 8 7 6"), ("mha", b"DimSize = 8 7 6")])
def test_a_compressed_stream_longer_than_its_header_says_is_refused(tmp_path: Path, suffix: str, old: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    save(path, compressed=True, shape=(256, 256, 200))
    claimed = old.replace(b"8 7 6", b"256 256 200")
    path.write_bytes(path.read_bytes().replace(claimed, old))
    with pytest.raises(VolumeError, match="far more data"):
        read_volume(path)


@pytest.mark.parametrize("suffix", ["nhdr", "mhd"])
def test_a_missing_or_outlying_data_file_is_refused(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / f"a.{suffix}"
    save(path)
    (data,) = [file for file in folder.iterdir() if file != path]
    data.rename(tmp_path / data.name)
    with pytest.raises(VolumeError, match="which is missing"):
        read_volume(path)
    path.write_bytes(path.read_bytes().replace(data.name.encode(), b"../" + data.name.encode()))
    with pytest.raises(VolumeError, match="outside of its folder"):
        read_volume(path)


def test_an_nrrd_without_a_named_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    save(path)
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior\n", b"space dimension: 3\n"))
    with pytest.raises(VolumeError, match="no orientation"):
        read_volume(path)


def test_frames_are_chosen_as_in_nifti(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    array = save(path, shape=(5, 6, 7, 3))
    with pytest.raises(VolumeError, match=r"--frame N \(0 to 2\)"):
        read_volume(path)
    for frame in range(3):
        volume = read_volume(path, frame=frame)
        np.testing.assert_array_equal(volume.to_source(volume.array), array[..., frame])


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_several_channels_are_refused(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
    with pytest.raises(VolumeError, match="3 channels"):
        read_volume(tmp_path / f"a.{suffix}")


def test_a_sheared_metaimage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    save(path)
    lines = path.read_bytes().split(b"\n")
    sheared = [b"TransformMatrix = 1 0 0 0 1 0 0 0.3 1" if b"TransformMatrix" in line else line for line in lines]
    path.write_bytes(b"\n".join(sheared))
    with pytest.raises(VolumeError, match="sheared"):
        read_volume(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_a_label_written_in_any_format_lies_where_its_image_lies(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "image.nrrd")
    image = read_volume(tmp_path / "image.nrrd")
    label = (np.arange(image.array.size).reshape(image.shape) % 5).astype(np.uint8)
    written = read_volume(write_label(tmp_path / f"label.{suffix}", label, image))
    assert isinstance(written, Volume)
    np.testing.assert_array_equal(written.array, label)
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)
    assert written.source.shape == image.source.shape
