"""NIfTI headers: placement, scaling, units, damage. Files are made with nibabel and then altered byte by byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import VolumeError
from fm3d_core.volumes import inspect_header, read_volume

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2.5, 0, 4], [0, 0, 3, 11], [0, 0, 0, 1]])


def voxels(dtype: str = "int16") -> np.ndarray:
    return np.arange(6 * 7 * 8).reshape(6, 7, 8).astype(dtype)


def save(path: Path, image_class: type = nibabel.Nifti1Image, dtype: str = "int16", **fields: object) -> Path:
    """A small file whose header fields are overwritten after saving, as damaged files have them."""
    image = image_class(voxels(dtype), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    nibabel.save(image, path)
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    header = image_class.header_class(bytes(content[: image_class.header_class.template_dtype.itemsize]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[: len(header.binaryblock)] = header.binaryblock
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else bytes(content))
    return path


@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64", ">i2", ">f8"])
def test_voxels_and_affine_are_those_of_the_file(tmp_path: Path, image_class: type, name: str, dtype: str) -> None:
    volume = read_volume(save(tmp_path / name, image_class, dtype))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, voxels(dtype).astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_a_big_endian_file_is_read(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(voxels(), AFFINE, header), tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    np.testing.assert_array_equal(read_volume(tmp_path / "big.nii").array, voxels())


@pytest.mark.parametrize(
    ("slope", "factor"), [(0.0, 1.0), (np.nan, 1.0), (np.inf, 1.0), (1.0, 1.0), (0.5, 0.5), (-2.0, -2.0)]
)
def test_scaling_is_applied_and_a_slope_of_zero_nan_or_inf_means_one(
    tmp_path: Path, slope: float, factor: float
) -> None:
    intercept = 10.0 if np.isfinite(slope) and slope else 0.0
    volume = read_volume(save(tmp_path / "a.nii", scl_slope=slope, scl_inter=intercept))
    np.testing.assert_allclose(volume.array, voxels() * factor + intercept, rtol=1e-6)


def test_a_pair_is_read_by_either_name(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels(), AFFINE), tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, voxels())
    (tmp_path / "pair.hdr").unlink()
    with pytest.raises(VolumeError, match=r"pair\.hdr is missing"):
        read_volume(tmp_path / "pair.img")


def test_a_sform_wins_over_another_qform_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert np.allclose(read_volume(save(tmp_path / "same.nii")).affine, AFFINE)
    assert not caplog.records
    volume = read_volume(save(tmp_path / "other.nii", qoffset_x=-12.0))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert "differ by up to 3 mm; the sform is used" in caplog.text


def test_a_qform_alone_places_the_image(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.nii", sform_code=0, srow_x=0, srow_y=0, srow_z=0))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_a_broken_sform_gives_way_to_a_good_qform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = read_volume(save(tmp_path / "a.nii", srow_x=np.nan))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert "sform is unusable" in caplog.text


def test_qfac_zero_means_one(tmp_path: Path) -> None:
    pixdim = [0, 2, 2.5, 3, 1, 1, 1, 1]
    volume = read_volume(save(tmp_path / "a.nii", sform_code=0, pixdim=pixdim))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_metres_and_micrometres_become_millimetres(tmp_path: Path, code: int, factor: float) -> None:
    volume = read_volume(save(tmp_path / "a.nii", xyzt_units=code | 8))
    np.testing.assert_allclose(volume.affine[:3], AFFINE[:3] * factor)


@pytest.mark.parametrize("step", [0.0, -2.0, np.nan, np.inf])
@pytest.mark.parametrize("sform_code", [0, 1])
def test_an_impossible_spacing_is_refused(tmp_path: Path, step: float, sform_code: int) -> None:
    path = save(tmp_path / "a.nii", pixdim=[1, step, 2.5, 3, 1, 1, 1, 1], sform_code=sform_code)
    with pytest.raises(VolumeError, match="impossible voxel size") as caught:
        read_volume(path)
    assert "a.nii" in str(caught.value)


def test_a_file_that_does_not_say_how_it_lies_is_refused_with_the_way_to_fix_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", qform_code=0, sform_code=0)
    assert inspect_header(path).affine is None
    with pytest.raises(VolumeError, match=r"no orientation.*set_sform"):
        read_volume(path)


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", srow_y=[0, 2.5, 0.3, 4])
    with pytest.raises(VolumeError, match="sheared"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_claims_30000_cubed_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    assert inspect_header(path).shape == (30000, 30000, 30000)
    with pytest.raises(VolumeError, match=r"needs 150,874\.3 GiB for 30000 x 30000 x 30000"):
        read_volume(path)


def test_a_limit_in_bytes_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    needed = inspect_header(path).loaded_bytes
    assert needed == 6 * 7 * 8 * (2 + 4)
    assert read_volume(path, limit_bytes=needed).shape == (6, 7, 8)
    with pytest.raises(VolumeError, match="the limit is"):
        read_volume(path, limit_bytes=needed - 1)


@pytest.mark.parametrize("dim", [[3, -6, 7, 8, 1, 1, 1, 1], [3, 0, 7, 8, 1, 1, 1, 1]])
def test_an_impossible_shape_is_refused(tmp_path: Path, dim: list[int]) -> None:
    with pytest.raises(VolumeError, match="impossible shape"):
        read_volume(save(tmp_path / "a.nii", dim=dim))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_claims_more_voxels_than_there_are_is_refused_as_cut_short(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, dim=[3, 600, 700, 8, 1, 1, 1, 1])
    with pytest.raises(VolumeError, match="cut short"):
        read_volume(path)


def test_a_stream_that_unpacks_to_far_more_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    content = save(tmp_path / "a.nii").read_bytes()
    path.write_bytes(gzip.compress(content) + gzip.compress(bytes(64 * 2**20), 1))
    with pytest.raises(VolumeError, match="far more data than its header says"):
        read_volume(path)


@pytest.mark.parametrize("kept", [3, 100, 351, 400])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_anywhere_is_refused_in_one_line_with_its_name(tmp_path: Path, name: str, kept: int) -> None:
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("byte", [50, 200, -3, -6])
def test_a_flipped_bit_in_a_gzip_stream_is_refused(tmp_path: Path, byte: int) -> None:
    path = save(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)
    with pytest.raises(VolumeError):
        read_volume(path)


@pytest.mark.parametrize(
    "fields", [{"datatype": 77}, {"scl_slope": 2.0, "scl_inter": np.nan}, {"dim": [9, 1, 1, 1, 1, 1, 1, 1]}]
)
def test_a_header_without_sense_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(VolumeError):
        read_volume(save(tmp_path / "a.nii", **fields))


def test_frames_are_chosen_one_at_a_time_and_a_single_one_needs_no_choice(tmp_path: Path) -> None:
    frames = np.arange(4 * 5 * 6 * 3, dtype=np.int16).reshape(4, 5, 6, 3)
    for name in ("four.nii", "four.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(frames, AFFINE), tmp_path / name)
        with pytest.raises(VolumeError, match=r"holds 3 frames.*--frame N \(0 to 2\)"):
            read_volume(tmp_path / name)
        with pytest.raises(VolumeError, match=r"there is no frame 3"):
            read_volume(tmp_path / name, frame=3)
        for frame in range(3):
            np.testing.assert_array_equal(read_volume(tmp_path / name, frame=frame).array, frames[..., frame])
    nibabel.save(nibabel.Nifti1Image(frames[..., :1], AFFINE), tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii").shape == (4, 5, 6)


def test_the_header_is_told_without_reading_the_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:352])
    header = inspect_header(path)
    assert (header.format, header.shape, header.dtype, header.frames) == ("NIfTI-1", (6, 7, 8), "int16", 1)
    assert header.spacing == pytest.approx((2, 2.5, 3))
