"""Every real file of shared/data/robustness: what is named ok works, the others are refused in one line."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import FM3DError, LabelError, VolumeError
from fm3d_core.volumes import check_label, inspect_header, read_label, read_volume, write_label

REFUSED = {
    "2d_header_raw_missing.mhd": "missing",
    "2d_slice.mha": "single slice",
    "complex64.nii.gz": "complex",
    "derived/empty.nii.gz": "empty",
    "derived/gzip_crc_broken.nii.gz": "checksum",
    "derived/inf_voxel.nii.gz": "NaN or Inf",
    "derived/nan_grid.nii.gz": "NaN or Inf",
    "derived/text_named.nii.gz": "not an image",
    "derived/truncated_data.nii": "cut short",
    "derived/truncated_gzip.nii.gz": "cut short",
    "dicom_mr_missing_slice": "unevenly spaced slices: 6 mm",
    "dicomseg/liver_SEG.dcm": "DICOM SEG",
    "lfs_pointer_not_an_image.nii.gz": "git lfs pull",
    "lfs_pointer_not_an_image.nrrd": "git lfs pull",
    "nan_bigendian_float32.nii": "NaN or Inf",
    "noform_bigendian_uint8.nii.gz": "no orientation",
    "pair_without_img.hdr": "pair_without_img.img is missing",
    "rgb24_anisotropic_10mm.nii.gz": "RGB",
    "rgba32_4slices.nii.gz": "RGBA",
    "rtstruct_without_ct.dcm": "RTSTRUCT",
    "shear_ct_gantry_tilt_uint8_slope.nii.gz": "sheared",
    "single_slice_256x256x1.nii.gz": "single slice",
}
ODDLY_NAMED_BUT_SOUND = [
    "derived/all_zero.nii.gz",
    "derived/constant7.nii.gz",
    "derived/uncompressed_named_gz.nii.gz",
    "dicom_ct_j2k_20slices",
    "dicom_mr_adc_oblique_19slices",
    "dicomseg/ct-3slice",
    "niivue_FLAIR.nrrd",
    "niivue_mha.mha",
]


@pytest.fixture(scope="module")
def robustness(shared_data: Path) -> Path:
    return shared_data / "robustness"


def all_ok_files() -> list[str]:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "robustness"
    return sorted(path.name for path in folder.glob("ok_*")) or ["no shared data"]


@pytest.mark.parametrize("name", all_ok_files())
def test_a_file_named_ok_is_read_and_its_label_comes_back_on_its_own_grid(
    robustness: Path, tmp_path: Path, name: str
) -> None:
    path = robustness / name
    frame = 0 if inspect_header(path).frames > 1 else None
    if frame is not None:
        with pytest.raises(VolumeError, match="--frame"):
            read_volume(path)
    volume = read_volume(path, frame=frame)
    assert np.isfinite(volume.array).all()

    label = (volume.array > np.median(volume.array)).astype(np.uint8)
    written = write_label(tmp_path / "label.nii.gz", label, volume)

    image = nibabel.load(written)
    assert image.shape == volume.source.shape and image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, volume.source.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.to_source(label))


@pytest.mark.parametrize("name", [name for name in all_ok_files() if "nii" in name or "mgz" in name])
def test_voxels_and_affine_are_what_nibabel_says(robustness: Path, name: str) -> None:
    image = nibabel.as_closest_canonical(nibabel.load(robustness / name))
    volume = read_volume(robustness / name, frame=0 if len(image.shape) > 3 else None)
    voxels = image.get_fdata(dtype=np.float32)
    voxels = voxels[..., 0] if voxels.ndim > 3 else voxels
    np.testing.assert_allclose(volume.array, voxels, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-9)


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_bad_file_is_refused_in_one_line_with_file_and_remedy(robustness: Path, name: str, message: str) -> None:
    with pytest.raises(FM3DError, match=message) as caught:
        read_volume(robustness / name)
    line = str(caught.value)
    assert Path(name).name in line and "\n" not in line and line.endswith(".") and caught.value.remedy


@pytest.mark.parametrize("name", ODDLY_NAMED_BUT_SOUND)
def test_a_sound_file_is_read_whatever_its_name(robustness: Path, name: str) -> None:
    volume = read_volume(robustness / name)
    assert min(volume.shape) > 1 and min(volume.spacing) > 0


def test_no_file_of_the_collection_is_left_out_of_these_tests(robustness: Path) -> None:
    labels = {"dicom_ct_j2k_20slices_label.nii.gz", "label_int16_many_values.nii.gz", "label_without_image_384.nii.gz"}
    known = {Path(name).parts[0] for name in [*REFUSED, *ODDLY_NAMED_BUT_SOUND]} | labels
    known |= {"derived", "derived_reference", "image_without_label", "label_without_image"}
    known |= {"manifest.json", "observed_readers.json", *all_ok_files()}
    assert {path.name for path in robustness.iterdir()} == known


@pytest.mark.parametrize(
    ("name", "shift"),
    # whoever derived the second one left its origin at 0 along y and z: the file itself lies 1 mm aside
    [("same_image_axes_permuted", (0, 0, 0)), ("same_image_left_handed_LAS", (0, -1, -1))],
)
def test_the_same_image_in_another_axis_order_is_the_same_ras_volume(
    robustness: Path, name: str, shift: tuple[float, ...]
) -> None:
    reference = read_volume(robustness / "derived_reference" / "hippocampus_001_image.nii.gz")
    volume = read_volume(robustness / "derived" / f"{name}.nii.gz")
    np.testing.assert_array_equal(volume.array, reference.array)
    np.testing.assert_allclose(volume.affine[:3, :3], reference.affine[:3, :3], atol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 3], reference.affine[:3, 3] + shift, atol=1e-6)


@pytest.mark.parametrize("name", ["derived/nan_grid.nii.gz", "derived/inf_voxel.nii.gz", "nan_bigendian_float32.nii"])
def test_nan_and_inf_become_the_smallest_finite_value_when_allowed(
    robustness: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = nibabel.as_closest_canonical(nibabel.load(robustness / name)).get_fdata(dtype=np.float32)
    volume = read_volume(robustness / name, allow_nonfinite=True)
    bad = ~np.isfinite(image)
    assert bad.any() and (volume.array[bad] == image[~bad].min()).all()
    np.testing.assert_array_equal(volume.array[~bad], image[~bad])
    assert "NaN or Inf" in caplog.text


def test_a_jpeg2000_series_lies_where_its_label_lies(robustness: Path) -> None:
    image = read_volume(robustness / "dicom_ct_j2k_20slices")
    label = read_label(robustness / "dicom_ct_j2k_20slices_label.nii.gz")
    check_label(label, image)
    assert image.array.min() < -900 and image.array.max() > 300  # Hounsfield units


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("label_empty", "is empty: every voxel is background"),
        ("label_other_shape", "has 32 x 51 x 35 voxels but its image .* has 35 x 51 x 35"),
        ("label_shifted_affine_40mm", "40 mm away"),
        ("label_noninteger", "not a label map: it holds"),
        ("label_gap_values_0_1_200", "unknown label values 200"),
    ],
)
def test_a_bad_label_is_refused_in_one_line(robustness: Path, name: str, message: str) -> None:
    image = read_volume(robustness / "derived_reference" / "hippocampus_001_image.nii.gz")
    with pytest.raises(LabelError, match=message) as caught:
        label = read_label(robustness / "derived" / f"{name}.nii.gz", names={1: "anterior", 2: "posterior"})
        check_label(label, image)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_an_atlas_with_more_than_255_values_is_no_label_map(robustness: Path) -> None:
    with pytest.raises(LabelError, match=r"and .* more\. Use values from 0 to 255"):
        read_label(robustness / "label_int16_many_values.nii.gz")
