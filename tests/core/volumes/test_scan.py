"""A folder tree of real files is listed, and each file that is left out is named with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fm3d_core.errors import CaseError, Stopped
from fm3d_core.progress import Progress
from fm3d_core.volumes import write_nifti, write_synthetic_cases
from fm3d_core.volumes.scan import Scan, guess_modality, scan_folder
from fm3d_core.volumes.volume_list import count_reasons, read_volume_list, write_left_out, write_volume_list


@pytest.fixture(scope="module")
def robust(shared_data: Path) -> Scan:
    return scan_folder(shared_data / "robustness", exclude=())


def test_all_formats_series_and_frames_are_found(robust: Scan, shared_data: Path) -> None:
    found = {volume.path.name: volume for volume in robust.volumes}
    series = found["dicom_ct_j2k_20slices"]
    assert (series.shape, series.modality, series.axes) == ((512, 512, 20), "CT", "LPS")
    assert series.bytes == sum(file.stat().st_size for file in series.path.iterdir())
    assert found["dicom_mr_adc_oblique_19slices"].modality == "MR"
    assert found["ok_4d_int16_anisotropic.nii.gz"].frames == 10
    assert found["niivue_FLAIR.nrrd"].modality == "MR"  # a word of its name
    assert found["ok_float64.nii.gz"].modality == "unknown"
    assert {found[name].format for name in ("ok_lia_uint8.mgz", "niivue_mha.mha")} == {"MGH", "MetaImage"}
    np.testing.assert_allclose(found["ok_aniso_6.4x4x0.5_float64.nii.gz"].spacing, (6.4, 4, 0.5), atol=1e-4)
    permuted = found["same_image_axes_permuted.nii.gz"]
    assert permuted.axes == "SRA" and permuted.shape == (35, 35, 51)
    assert len({volume.sha256 for volume in robust.volumes}) >= len(robust.volumes) - 2  # few copies in there


def test_each_unusable_file_is_named_with_its_reason(robust: Scan) -> None:
    reasons = {item.path.name: item.reason for item in robust.left_out}
    assert "LFS pointer" in reasons["lfs_pointer_not_an_image.nii.gz"]
    for name, reason in {
        "2d_slice.mha": "single slice",
        "complex64.nii.gz": "complex",
        "dicom_mr_missing_slice": "unevenly spaced",
        "empty.nii.gz": "empty",
        "manifest.json": "no image (.json)",
        "noform_bigendian_uint8.nii.gz": "how it lies in space",
        "pair_without_img.hdr": "half of a pair",
        "rgb24_anisotropic_10mm.nii.gz": "RGB",
        "shear_ct_gantry_tilt_uint8_slope.nii.gz": "right angles",
    }.items():
        assert reason in reasons[name], name
    assert all("\n" not in reason for reason in reasons.values())
    counts = count_reasons(robust.left_out)
    assert sum(counts.values()) == len(robust.left_out) and counts["is a single slice"] == 2


def test_label_folders_small_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    write_synthetic_cases(tmp_path, 2, shape=(32, 32, 24))
    write_nifti(tmp_path / "images" / ".hidden.nii.gz", np.zeros((30, 30, 30), np.int16), np.eye(4))
    write_nifti(tmp_path / "thin.nii.gz", np.zeros((30, 30, 5), np.int16), np.eye(4))
    scan = scan_folder(tmp_path, min_axis=24)
    assert [volume.path.parent.name for volume in scan.volumes] == ["images", "images"]
    reasons = {str(item.path.relative_to(tmp_path)): item.reason for item in scan.left_out}
    assert reasons["thin.nii.gz"] == "is smaller than 24 voxels along an axis (30 x 30 x 5)"
    assert reasons["labels/synthetic_000.nii.gz"] == "lies in a folder of label maps"
    assert set(reasons) == {
        "thin.nii.gz",
        "labels.json",
        "labels/synthetic_000.nii.gz",
        "labels/synthetic_001.nii.gz",
    }


def test_a_list_comes_back_as_written_and_published_lists_are_read(robust: Scan, tmp_path: Path) -> None:
    write_volume_list(tmp_path / "list.json", robust.volumes)
    again = read_volume_list(tmp_path / "list.json")
    assert [volume.sha256 for volume in again] == [volume.sha256 for volume in robust.volumes]
    assert again[0].path == robust.volumes[0].path and again[3].frames == robust.volumes[3].frames
    assert (tmp_path / "list.json").read_text().count("\n") == len(robust.volumes) + 2
    published = [{"image": "ct/a.nii.gz", "shape": [512, 512, 90], "spacing": [0.8, 0.8, 2.5]}]
    (tmp_path / "published.json").write_text(json.dumps(published))
    (volume,) = read_volume_list(tmp_path / "published.json")
    assert volume.path == tmp_path / "ct/a.nii.gz" and volume.shape == (512, 512, 90) and volume.frames == 1
    write_left_out(tmp_path / "left_out.json", robust.left_out)
    assert len(json.loads((tmp_path / "left_out.json").read_text())) == len(robust.left_out)
    (tmp_path / "wrong.json").write_text('[{"image": 3}]')
    with pytest.raises(CaseError, match="no list of volumes"):
        read_volume_list(tmp_path / "wrong.json")


def test_progress_is_told_and_a_scan_can_be_cancelled(synthetic_images: Path, tmp_path: Path) -> None:
    events: list[Progress] = []
    scan_folder(synthetic_images, progress=events.append)
    assert events[-1].stage == "reading headers" and events[-1].step == events[-1].total == 3
    with pytest.raises(Stopped):
        scan_folder(synthetic_images, should_stop=lambda: True)
    with pytest.raises(CaseError, match="no usable volume"):
        (tmp_path / "note.txt").write_text("no image")
        scan_folder(tmp_path)


def test_a_modality_is_guessed_only_when_the_path_names_just_one(tmp_path: Path) -> None:
    for name, expected in {"ct/p1.nii": "CT", "p1_T1w.nii": "MR", "fdg-pet.nii": "PT", "effect.nii": "unknown"}.items():
        assert guess_modality(tmp_path / name, tmp_path) == expected, name
    assert guess_modality(tmp_path / "ct_to_mr" / "a.nii", tmp_path) == "unknown"


def test_two_volumes_with_equal_headers_and_detached_data_differ(tmp_path: Path) -> None:
    import SimpleITK as sitk

    for number in range(2):
        image = sitk.GetImageFromArray(np.full((6, 6, 6), number, np.int16))
        sitk.WriteImage(image, str(tmp_path / f"{number}.mhd"))
        text = (tmp_path / f"{number}.mhd").read_text()
        folder = tmp_path / f"case{number}"
        folder.mkdir()
        (folder / "a.mhd").write_text(text.replace(f"{number}.raw", "a.raw"))
        (tmp_path / f"{number}.raw").rename(folder / "a.raw")
        (tmp_path / f"{number}.mhd").unlink()
    scan = scan_folder(tmp_path)
    assert len({volume.sha256 for volume in scan.volumes}) == 2 and scan.left_out == ()


@pytest.fixture
def synthetic_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write_synthetic_cases(folder, 3, shape=(24, 24, 24))
    return folder / "images"
