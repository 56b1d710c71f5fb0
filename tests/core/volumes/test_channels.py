"""Several channels of one image: aligned on the first, refused where they do not belong together; and resizing."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fm3d_core.errors import SettingsError, VolumeError
from fm3d_core.volumes import Preprocessing, read_channels, refuse_constant


def _write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4) if affine is None else affine), path)
    return path


def _ramp(shape: tuple[int, int, int], step: float = 1.0, start: float = 0.0) -> np.ndarray:
    x = start + step * np.arange(shape[0], dtype=np.float32)
    return np.broadcast_to(x[:, None, None], shape).copy()


def test_channels_on_one_grid_are_taken_as_they_are(tmp_path: Path) -> None:
    one, two = _ramp((8, 6, 5)), np.random.default_rng(0).random((8, 6, 5))
    volume = read_channels([_write(tmp_path / "a.nii.gz", one), _write(tmp_path / "b.nii.gz", two)], 2)
    assert len(volume.channels) == 2
    np.testing.assert_array_equal(volume.channels[1], two.astype(np.float32))


def test_a_channel_on_another_grid_is_resampled_in_world_space(tmp_path: Path) -> None:
    """The same ramp along x in mm, sampled every 2 mm and in another axis order, comes out as the ramp itself."""
    first = _write(tmp_path / "a.nii.gz", _ramp((12, 10, 8)))
    coarse = np.diag([-2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = [14.0, -2.0, -2.0]
    second = _write(tmp_path / "b.nii.gz", _ramp((9, 8, 7), step=-2.0, start=14.0), coarse)
    volume = read_channels([first, second], 2)
    np.testing.assert_allclose(volume.channels[1], _ramp((12, 10, 8)), atol=1e-4)


def test_the_frames_of_a_4d_file_are_channels(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((6, 5, 4, 3))
    path = _write(tmp_path / "a.nii.gz", frames)
    np.testing.assert_allclose(read_channels([path], 3).channels[2], frames[..., 2], atol=1e-6)
    with pytest.raises(VolumeError, match=r"holds 3 frames, 4 channels are expected"):
        read_channels([path], 4)


def test_what_does_not_belong_together_is_refused_in_words(tmp_path: Path) -> None:
    away = np.eye(4)
    away[0, 3] = 100.0
    paths = [_write(tmp_path / "a.nii.gz", _ramp((8, 8, 8))), _write(tmp_path / "b.nii.gz", _ramp((8, 8, 8)), away)]
    with pytest.raises(VolumeError, match=r"b\.nii\.gz: shows another part of the body than a\.nii\.gz: only 0%"):
        read_channels(paths, 2)
    with pytest.raises(VolumeError, match="has 2 image files, 4 channels are expected"):
        read_channels(paths, 4)
    with pytest.raises(VolumeError, match="1 frame, 2 channels"):
        read_channels(paths[:1], 2)
    flat = read_channels([paths[0], _write(tmp_path / "c.nii.gz", np.ones((8, 8, 8)))], 2)
    with pytest.raises(VolumeError, match=r"same value \(1\) in every voxel of channel 2"):
        refuse_constant(flat)


def test_each_channel_is_scaled_by_itself_and_the_foreground_is_that_of_any(tmp_path: Path) -> None:
    one, two = np.zeros((40, 20, 20)), np.zeros((40, 20, 20))
    one[8:14, 8:12, 8:12], two[24:30, 8:12, 8:12] = 5.0, 700.0
    paths = [_write(tmp_path / f"{name}.nii.gz", array) for name, array in (("a", one), ("b", two))]
    prepared = Preprocessing(percentiles=(0, 100)).prepare(read_channels(paths, 2))
    assert prepared.image.shape == (2, 30, 12, 12)  # 8 to 30 and a margin of 4
    assert prepared.image.amax(dim=(1, 2, 3)).tolist() == [1.0, 1.0]


def test_a_volume_is_resized_whatever_its_extent_and_its_foreground_fills_the_size(tmp_path: Path) -> None:
    array = np.zeros((60, 20, 20))
    array[30:50, 4:16, 4:16] = _ramp((20, 12, 12), start=1.0)
    volume = read_channels([_write(tmp_path / "a.nii.gz", array)])
    whole = Preprocessing(size=(24, 32, 16), crop_foreground=False).prepare(volume)
    assert whole.image.shape == (1, 24, 32, 16) and whole.spacing == pytest.approx((2.5, 0.625, 1.25))
    cut = Preprocessing(size=(28, 20, 20), percentiles=(0, 100)).prepare(volume)
    assert cut.image.shape == (1, 28, 20, 20)  # 20 and a margin of 4 on both sides: one voxel for each
    assert cut.image[0, 4:24, 10, 10].diff().min() > 0 and cut.image[0, 23, 10, 10] == 1
    assert cut.restore_map(cut.image[0]).shape == volume.shape
    with pytest.raises(SettingsError, match="without a spacing"):
        Preprocessing(size=(4, 4, 4), spacing=(1, 1, 1))
