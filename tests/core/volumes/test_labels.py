"""Labels: read as whole numbers with known names, on their image's grid, written back exactly."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import LabelError, StorageError, VolumeError
from fm3d_core.volumes import Volume, check_label, read_label, read_volume, write_label


def save(path: Path, array: np.ndarray, shift: float = 0.0) -> Path:
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    return read_volume(save(tmp_path / "image.nii", np.zeros((4, 5, 6), np.float32)))


def test_whole_numbers_stored_as_float_are_labels(tmp_path: Path) -> None:
    array = (np.arange(120).reshape(4, 5, 6) % 3).astype(np.float64)
    label = read_label(save(tmp_path / "label.nii", array), names={1: "liver", 2: "spleen"})
    assert label.array.dtype == np.uint8
    np.testing.assert_array_equal(label.to_source(label.array), array)


@pytest.mark.parametrize("value", [-1.0, 256.0, 300.0])
def test_values_beyond_a_byte_are_refused(tmp_path: Path, value: float) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(LabelError, match=f"label values {value:g}. Use values from 0 to 255"):
        read_label(save(tmp_path / "label.nii", array))


def test_unknown_values_are_named_together_with_the_known_ones(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[0, 0, :4] = (1, 7, 9, 2)
    with pytest.raises(
        LabelError, match=r"label\.nii: .*values 7, 9\. Known are 0 \(background\), 1 \(liver\), 2 \(spleen\)"
    ):
        read_label(save(tmp_path / "label.nii", array), names={1: "liver", 2: "spleen"})


@pytest.mark.parametrize(("shift", "fits"), [(0.0, True), (0.0009, True), (0.0011, False), (1.0, False)])
def test_a_label_may_lie_a_thousandth_of_a_millimetre_aside_but_not_more(
    tmp_path: Path, image: Volume, shift: float, fits: bool
) -> None:
    label = read_label(save(tmp_path / "label.nii", np.ones((4, 5, 6), np.uint8), shift))
    if fits:
        check_label(label, image)
    else:
        with pytest.raises(LabelError, match=r"label\.nii: lies up to .* mm away from its image image\.nii"):
            check_label(label, image)


def test_a_label_in_another_axis_order_fits_its_image(image: Volume) -> None:
    array = np.ones((6, 4, 5), np.uint8)
    affine = image.source.affine[:, [2, 0, 1, 3]]
    check_label(Volume.from_array(array, affine, "label.nii"), image)


def test_an_empty_label_is_refused_unless_allowed(tmp_path: Path, image: Volume) -> None:
    label = read_label(save(tmp_path / "label.nii", np.zeros((4, 5, 6), np.uint8)))
    with pytest.raises(LabelError, match=r"label\.nii: is empty"):
        check_label(label, image)
    check_label(label, image, allow_empty=True)


@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (3, 0)])
def test_a_written_label_has_the_codes_forms_and_units_of_its_nifti_image(
    tmp_path: Path, codes: tuple[int, int]
) -> None:
    oblique = np.array([[0.0, -1.2, -1.6, 9], [0, 1.6, -1.2, 4], [3, 0, 0, 11], [0, 0, 0, 1]])
    source = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    source.set_qform(oblique if codes[0] else None, codes[0])
    source.set_sform(oblique if codes[1] else None, codes[1])
    source.header.set_xyzt_units("mm", "sec")
    nibabel.save(source, tmp_path / "image.nii.gz")
    image = read_volume(tmp_path / "image.nii.gz")

    write_label(tmp_path / "label.nii.gz", np.ones(image.shape), image)

    before, after = (nibabel.load(tmp_path / name).header for name in ("image.nii.gz", "label.nii.gz"))
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b"):
        np.testing.assert_array_equal(before[field], after[field])
    np.testing.assert_array_equal(before.get_best_affine(), after.get_best_affine())
    assert after.get_slope_inter() in ((None, None), (1.0, 0.0))


def test_a_label_of_an_image_in_metres_lies_where_the_image_lies(tmp_path: Path) -> None:
    source = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    source.header.set_xyzt_units("meter")
    nibabel.save(source, tmp_path / "image.nii")
    image = read_volume(tmp_path / "image.nii")
    label = read_label(write_label(tmp_path / "label.nii", np.ones((4, 5, 6)), image))
    assert label.spacing == pytest.approx((1, 2, 3))
    check_label(label, image)


@pytest.mark.parametrize("value", [0.5, -1, 256])
def test_what_is_no_label_is_not_written(tmp_path: Path, image: Volume, value: float) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        write_label(tmp_path / "label.nii", np.full((4, 5, 6), value), image)
    assert not (tmp_path / "label.nii").exists()


@pytest.mark.parametrize("name", ["label.png", "label", "label.mhd"])
def test_another_suffix_is_refused(tmp_path: Path, image: Volume, name: str) -> None:
    with pytest.raises(VolumeError, match=r"ends in \.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_label(tmp_path / name, np.ones((4, 5, 6)), image)


def test_the_image_itself_is_never_replaced(tmp_path: Path, image: Volume) -> None:
    with pytest.raises(VolumeError, match="is the image itself"):
        write_label(tmp_path / "image.nii", np.ones((4, 5, 6)), image)


def test_a_failed_write_leaves_the_old_label_and_nothing_half_done(tmp_path: Path, image: Volume) -> None:
    write_label(tmp_path / "old.nii", np.ones((4, 5, 6)), image)
    (tmp_path / "file").write_text("a file where a folder is needed")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError):
        write_label(tmp_path / "file" / "folder" / "label.nii", np.ones((4, 5, 6)), image)
    assert sorted(tmp_path.iterdir()) == before
