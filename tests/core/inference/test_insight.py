"""Features as colours and attention lie on the file's grid and tell parts of an image apart."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
from fm3d_core.errors import AdapterError, Stopped, VolumeError
from fm3d_core.inference import Predictor
from fm3d_core.inference.attention import attention_map, attention_of_heads
from fm3d_core.inference.insight import feature_colours
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing, Volume, read_volume, write_colours


def predictor_of(backbone: str | None) -> Predictor:
    task = SegmentationTask(("a",), Preprocessing(crop_foreground=False))
    settings = FinetuneSettings(method="linear_probe", backbone=backbone, head="linear")
    return Predictor(untrained_adapter(task, settings), "cpu")


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A bright block of stripes and a darker smooth one in emptiness, in an odd axis order."""
    array = np.zeros((44, 40, 36), np.float32)
    array[4:20, 6:34, 6:30] = 400 + 200 * (np.arange(28) % 4 < 2)[None, :, None]
    array[24:40, 6:34, 6:30] = 250
    affine = np.array([[0, -1.2, 0, 5], [1, 0, 0, -7], [0, 0, -2, 9], [0, 0, 0, 1.0]])
    return Volume.from_array(array, affine, Path("odd.nii.gz"))


def test_colours_tell_parts_apart_and_emptiness_is_black(volume: Volume) -> None:
    colours = feature_colours(predictor_of(None), volume)
    assert colours.shape == (*volume.shape, 3) and colours.dtype == np.uint8
    stripes, smooth = volume.array >= 400, volume.array == 250
    first, second = (colours[part].astype(float) for part in (stripes, smooth))
    apart = np.abs(first.mean(axis=0) - second.mean(axis=0)).max()
    assert apart > 60
    assert colours[volume.array == 0].mean() < 10
    assert np.array_equal(colours, feature_colours(predictor_of(None), volume))


def test_colours_are_written_on_the_files_own_grid(volume: Volume, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (*volume.shape, 3), np.uint8)
    file = write_colours(tmp_path / "colours.nii.gz", colours, volume)
    image = nib.load(file)
    assert image.get_data_dtype().names == ("R", "G", "B") and image.shape == volume.source.shape
    np.testing.assert_allclose(image.affine, volume.source.affine, atol=1e-5)
    stored = np.asarray(image.dataobj)
    for channel, name in enumerate("RGB"):
        assert np.array_equal(stored[name], volume.to_source(colours[..., channel]))
    with pytest.raises(VolumeError, match="as NIfTI only"):
        write_colours(tmp_path / "colours.nrrd", colours, volume)


def test_attention_of_a_transformer_is_a_share_and_other_networks_say_that_they_have_none(volume: Volume) -> None:
    attention = attention_map(predictor_of("vit_tiny"), volume)
    assert attention.shape == volume.shape and np.isfinite(attention).all()
    assert 0.5 < attention.mean() < 2 and attention.min() >= 0 and attention.std() > 0
    with pytest.raises(AdapterError, match="no transformer"):
        attention_map(predictor_of(None), volume)


def test_the_mean_of_the_heads_is_the_map_of_all_and_heads_differ(volume: Volume) -> None:
    predictor = predictor_of("vit_tiny")
    heads = attention_of_heads(predictor, volume)
    assert heads.shape == (3, *volume.shape)
    np.testing.assert_allclose(heads.mean(axis=0), attention_map(predictor, volume), atol=0.02)
    assert np.abs(heads[0] - heads[1]).max() > 1e-3


def test_the_first_component_tells_foreground_from_background(volume: Volume) -> None:
    """A background that is not empty: only its features tell it from the rest."""
    noise = np.random.default_rng(0).normal(60, 10, volume.shape).astype(np.float32)
    filled = Volume(np.where(volume.array > 0, volume.array, noise), volume.affine, volume.source)
    predictor = predictor_of(None)
    black = (feature_colours(predictor, filled, background="first_component") == 0).all(axis=-1)
    bright = volume.array >= 400
    assert black[volume.array == 0].mean() > 0.7 and black[bright].mean() < 0.1
    kept = (feature_colours(predictor, filled) == 0).all(axis=-1)
    assert kept[volume.array == 0].mean() < 0.5


def test_a_constant_and_a_tiny_volume_are_no_obstacle() -> None:
    for array in (np.full((20, 20, 20), 7, np.float32), np.random.default_rng(0).random((4, 5, 7), np.float32)):
        volume = Volume.from_array(array, np.eye(4), Path("small.nii.gz"))
        for background in ("empty", "first_component"):
            assert feature_colours(predictor_of(None), volume, background=background).shape == (*array.shape, 3)


def test_it_can_be_stopped(volume: Volume) -> None:
    with pytest.raises(Stopped):
        feature_colours(predictor_of(None), volume, should_stop=lambda: True)


def test_a_real_file_keeps_its_grid(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "robustness" / "ok_oblique39_hitachi_4slices.nii.gz"
    volume = read_volume(path)
    image = nib.load(write_colours(tmp_path / "c.nii.gz", feature_colours(predictor_of(None), volume), volume))
    original = nib.load(path)
    assert image.shape == original.shape[:3]
    np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)
