"""What is stored is the volume; crops read only their part; bad files, full disks and interruptions cost no more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from fm3d_core.errors import CaseError, SettingsError, Stopped, VolumeError
from fm3d_core.progress import Progress
from fm3d_core.volumes import inspect_header, read_volume, write_nifti, write_synthetic_cases
from fm3d_core.volumes.crop_preparation import foreground, halve, in_plane_first, is_label_map, modality_of_values
from fm3d_core.volumes.crop_store import CropStore, CropStoreSettings, choose_level, level_file, volume_folder
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder
from fm3d_core.volumes.volume_list import ListedVolume

STEP = 2 / (2**10 - 1)


def listed(path: Path) -> ListedVolume:
    header = inspect_header(path)
    x, y, z = header.shape[:3]
    dx, dy, dz = header.spacing[:3]
    return ListedVolume(path, (x, y, z), (dx, dy, dz), header.frames)


def whole(store: CropStore, index: int = 0, frame: int = 0) -> np.ndarray:
    return store.read(index, frame, (0, 0, 0), store.volumes[index].shape).values


def test_a_stored_volume_is_the_published_normalisation_of_its_foreground(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "robustness" / "ok_orientation_AIL_slope.nii.gz"
    build_crop_store([listed(path)], tmp_path / "store", workers=1)
    store = CropStore(tmp_path / "store")
    array = read_volume(path).array
    low, high = np.percentile(array, (0.05, 99.95))
    expected = np.clip((array - low) / (high - low) * 2 - 1, -1, 1).transpose(store.volumes[0].axes)
    expected = expected[foreground(expected[None])]
    np.testing.assert_allclose(whole(store), expected, atol=0.51 * STEP)
    part = store.read(0, 0, (5, 9, 11), (30, 20, 40))
    np.testing.assert_array_equal(part.values, whole(store)[5:35, 9:29, 11:51])
    assert part.start == (0, 0, 0) and part.length == (30, 20, 40)


def test_a_ct_takes_under_10_megabytes_and_coarse_levels_are_means(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "robustness" / "dicom_ct_j2k_20slices"
    native = shared_data / "abdomen" / "btcv_ct_native" / "images" / "btcv_03.nii.gz"
    build_crop_store([listed(folder), listed(native)], tmp_path / "store", workers=1)
    store = CropStore(tmp_path / "store")
    sizes = {volume.name: store.bytes_on_disk(index) / 1e6 for index, volume in enumerate(store.volumes)}
    assert sizes["dicom_ct_j2k_20slices"] * 128 / 20 < 10  # 512 x 512 with a real scanner's noise
    assert sizes["btcv_03"] < 10  # 257 x 257 x 141
    index = [volume.name for volume in store.volumes].index("dicom_ct_j2k_20slices")
    volume = store.volumes[index]
    assert volume.shape == (512, 512, 20) and volume.levels == (2, 4) and volume.modality == "CT"
    array = read_volume(folder).array
    low, high = volume.ranges[0]
    scaled = np.clip((array - low) / (high - low) * 2 - 1, -1, 1)[None]
    np.testing.assert_allclose(whole(store, index), halve(scaled)[0], atol=0.6 * STEP)
    coarse = store.read(index, 0, (10, 21, 3), (400, 300, 9), wanted=(90, 70))
    assert coarse.level == 4 and coarse.start == (0.5, 0.25, 0) and coarse.length == (100, 75, 9)
    expected = halve(halve(scaled))[0, 2:103, 5:81, 3:12]
    np.testing.assert_allclose(coarse.values, expected, atol=0.6 * STEP)


def test_the_coarsest_level_that_is_fine_enough_is_read() -> None:
    assert choose_level((1, 2, 4), (200, 200), (96, 96)) == 2
    assert choose_level((1, 2, 4), (200, 190), (96, 96)) == 1
    assert choose_level((2, 4), (60, 60), (96, 96)) == 2


def test_only_the_chunks_of_a_crop_are_unpacked(tmp_path: Path) -> None:
    import blosc2

    array = np.random.default_rng(0).normal(size=(160, 160, 64)).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii.gz", array, np.eye(4))
    build_crop_store([listed(path)], tmp_path / "store", workers=1)
    store = CropStore(tmp_path / "store")
    level = volume_folder(store.root, store.volumes[0].sha256) / level_file(1)
    # the last chunk is destroyed on disk: a crop in the first one does not notice, a crop in the last one does
    last = blosc2.open(str(level)).schunk.nchunks - 1
    content = bytearray(level.read_bytes())
    begin = int(len(content) * (last - 0.5) / (last + 1))
    content[begin : begin + 20_000] = bytes(20_000)
    level.write_bytes(content)
    fresh = CropStore(store.root)
    assert fresh.read(0, 0, (0, 0, 0), (32, 32, 16)).values.std() > 0.1
    with pytest.raises(VolumeError, match="cannot be read"):
        fresh.read(0, 0, (0, 0, 0), store.volumes[0].shape)


def test_frames_of_a_4d_image_are_all_stored_and_chosen_when_read(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "robustness" / "ok_4d_int16_anisotropic.nii.gz"
    build_crop_store([listed(path)], tmp_path / "all", workers=1)
    store = CropStore(tmp_path / "all")
    assert store.volumes[0].frames == tuple(range(10)) and len(store.volumes[0].ranges) == 10
    assert not np.array_equal(whole(store, frame=0), whole(store, frame=7))
    build_crop_store([listed(path)], tmp_path / "few", CropStoreSettings(most_frames=4), workers=1)
    few = CropStore(tmp_path / "few")
    assert few.volumes[0].frames == (0, 3, 6, 9)
    np.testing.assert_array_equal(whole(few, frame=3), whole(store, frame=9))


def test_real_bad_files_are_named_and_the_good_ones_stored(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "robustness"
    names = ["constant7", "nan_grid", "inf_voxel", "truncated_gzip", "gzip_crc_broken", "label_other_shape"]
    items = [listed(folder / "derived" / f"{name}.nii.gz") for name in names]
    items += [listed(folder / "ok_bigendian_int16.nii")]
    items += [ListedVolume(tmp_path / "gone.nii.gz", (9, 9, 9), (1, 1, 1)), items[-1]]
    report = build_crop_store(items, tmp_path / "store", workers=1)
    assert [volume.name for volume in report.volumes] == ["ok_bigendian_int16"]
    reasons = {item.path.name.removesuffix(".nii.gz"): item.reason for item in report.left_out}
    assert "same value everywhere" in reasons["constant7"]
    assert "NaN" in reasons["nan_grid"] and "NaN or Inf" in reasons["inf_voxel"]
    assert "cut short" in reasons["truncated_gzip"] and "damaged" in reasons["gzip_crc_broken"]
    assert "label map" in reasons["label_other_shape"] and "does not exist" in reasons["gone"]
    assert "same content" in reasons["ok_bigendian_int16.nii"]
    written = json.loads((tmp_path / "store" / "left_out.json").read_text())
    assert {row["reason"] for row in written} == set(reasons.values())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[ListedVolume]:
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic_cases(folder, 4, shape=(32, 28, 24))
    return list(scan_folder(folder).volumes)


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same_store(drawn: list[ListedVolume], tmp_path: Path) -> None:
    steps: list[int] = []
    with pytest.raises(Stopped):
        build_crop_store(
            drawn,
            tmp_path / "store",
            workers=1,
            progress=lambda event: steps.append(event.step),
            should_stop=lambda: len(steps) == 2,
        )
    assert len(CropStore(tmp_path / "store")) == 2
    report = build_crop_store(drawn, tmp_path / "store", workers=1)
    assert report.kept == 2 and len(report.volumes) == 4
    build_crop_store(drawn, tmp_path / "at_once", workers=2)  # two processes
    assert (tmp_path / "at_once" / "index.json").read_bytes() == (tmp_path / "store" / "index.json").read_bytes()
    for first, second in zip(
        sorted((tmp_path / "store").rglob("*.b2nd")), sorted((tmp_path / "at_once").rglob("*.b2nd")), strict=True
    ):
        assert first.read_bytes() == second.read_bytes()


def test_after_kill_9_in_the_middle_the_same_call_finishes_the_same_store(
    drawn: list[ListedVolume], tmp_path: Path
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder

def progress(event):
    if event.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

build_crop_store(scan_folder({str(drawn[0].path.parent)!r}).volumes, {str(tmp_path / "store")!r}, workers=1,
                 progress=progress)
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(CaseError, match="no readable index"):
        CropStore(tmp_path / "store")
    report = build_crop_store(drawn, tmp_path / "store", workers=1)
    assert report.kept == 3 and len(report.volumes) == 4
    build_crop_store(drawn, tmp_path / "at_once", workers=1)
    assert (tmp_path / "at_once" / "index.json").read_bytes() == (tmp_path / "store" / "index.json").read_bytes()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # a child that ends while we look
        return False


def test_a_stored_volume_with_a_missing_level_is_made_again(drawn: list[ListedVolume], tmp_path: Path) -> None:
    build_crop_store(drawn[:2], tmp_path / "store", workers=1)
    level = next((tmp_path / "store").rglob("*.b2nd"))
    content = level.read_bytes()
    level.unlink()
    report = build_crop_store(drawn[:2], tmp_path / "store", workers=1)
    assert report.kept == 1 and level.read_bytes() == content


def test_a_worker_that_dies_costs_no_volume(drawn: list[ListedVolume], tmp_path: Path) -> None:
    killed = []

    def kill_a_worker(event: Progress) -> None:
        workers = [child for child in psutil.Process().children() if _is_worker(child)]
        if not killed and workers:
            workers[0].kill()
            killed.append(workers[0].pid)

    report = build_crop_store([*drawn, *drawn], tmp_path / "store", workers=2, progress=kill_a_worker)
    assert killed and len(report.volumes) == 4
    assert all("same content" in item.reason for item in report.left_out) and len(report.left_out) == 4


def test_a_changed_file_and_other_settings_are_refused(drawn: list[ListedVolume], tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(drawn[0].path.read_bytes())
    scanned = scan_folder(tmp_path).volumes
    path.write_bytes(drawn[1].path.read_bytes())
    report = build_crop_store([*scanned, drawn[2]], tmp_path / "store", workers=1)
    assert report.left_out[0].reason == "has changed since the scan"
    with pytest.raises(SettingsError, match="other settings"):
        build_crop_store(drawn, tmp_path / "store", CropStoreSettings(bits=8), workers=1)
    with pytest.raises(CaseError, match="no crop store"):
        CropStore(tmp_path)
    with pytest.raises(CaseError, match="none of its 1 volumes"):
        CropStore(tmp_path / "store", min_axis=100)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_the_run_in_one_line_and_keeps_what_is_complete(
    drawn: list[ListedVolume], tmp_path: Path, workers: int
) -> None:
    """The limit on file sizes stands for the full disk: the second volume's level does not fit under it."""
    large = write_nifti(
        tmp_path / "large.nii.gz", np.random.default_rng(0).normal(size=(90, 90, 90)).astype(np.float32), np.eye(4)
    )
    code = f"""
import resource
from fm3d_core.errors import StorageError
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder
from pathlib import Path

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    first = scan_folder({str(drawn[0].path.parent)!r}).volumes[:1]
    second = scan_folder({str(large.parent)!r}).volumes
    try:
        build_crop_store([*first, *second], Path({str(tmp_path)!r}) / "store", workers={workers})
    except StorageError as error:
        print("refused:", error)
"""
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True)
    assert done.stdout.startswith("refused:") and "File too large" in done.stdout, done.stdout + done.stderr
    if workers == 1:
        assert len(CropStore(tmp_path / "store")) == 1
    assert not list((tmp_path / "store").rglob(".writing-*"))


def test_axes_of_equal_spacing_come_first_and_there_is_always_an_order() -> None:
    assert in_plane_first((0.8, 0.8, 3.0)) == (0, 1, 2)
    assert in_plane_first((1.0, 1.0, 1.0)) == (0, 1, 2)
    assert in_plane_first((3.0, 0.8, 0.8)) == (1, 2, 0)
    assert in_plane_first((0.8, 3.0, 0.8)) == (0, 2, 1)
    assert in_plane_first((1.0, 2.0, 2.2)) == (1, 2, 0)  # no pair is equal: the nearest two


def test_hounsfield_units_are_recognised_by_their_range(shared_data: Path) -> None:
    assert modality_of_values(read_volume(shared_data / "robustness" / "ok_ct_lung_small.mha").array) == "CT"
    assert modality_of_values(read_volume(shared_data / "robustness" / "niivue_FLAIR.nrrd").array) == "unknown"


def test_label_maps_are_told_from_dark_images_with_as_few_grey_values(shared_data: Path) -> None:
    dark = read_volume(shared_data / "other" / "acdc_mr" / "images" / "patient021_ED.nii.gz").array
    assert len(np.unique(dark)) <= 32 and not is_label_map(dark)
    for label in ("other/acdc_mr/labels/patient021_ED", "abdomen/btcv_ct_native/labels/btcv_03"):
        assert is_label_map(read_volume(shared_data / f"{label}.nii.gz").array)
