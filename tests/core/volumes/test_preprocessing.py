"""Preprocessing and its inverse, on drawn and on real volumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_core.errors import SettingsError, VolumeError
from fm3d_core.volumes import (
    Preprocessing,
    Volume,
    check_label,
    draw_case,
    find_cases,
    read_label,
    read_volume,
    refuse_constant,
)
from fm3d_core.volumes.preprocessing import without_padding

REAL_SETS = {
    "hippocampus": (0.8, 1.3, 1.0),
    "abdomen/chaos_mr_t2": (3.0, 3.0, 4.0),
    "other/acdc_mr": (2.0, 2.0, 5.0),
    "abdomen/btcv_ct": (2.5, 2.5, 4.0),
}


def volume(array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume.from_array(array.astype(np.float32), np.diag([*spacing, 1.0]), "case.nii")


def one_hot(label: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(label[0].long(), int(label.max()) + 1).movedim(-1, 0).float()


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.logical_and(first, second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("name", REAL_SETS)
def test_a_label_resampled_to_another_spacing_comes_back_to_the_same_voxels(shared_data: Path, name: str) -> None:
    for case in find_cases(shared_data / name, labelled=True)[:2]:
        assert case.label is not None
        image, label = read_volume(case.image), read_label(case.label)
        check_label(label, image)
        preprocessing = Preprocessing(spacing=REAL_SETS[name])
        prepared = preprocessing.prepare(image)
        small = preprocessing.prepare_label(label, prepared)
        assert small.shape == prepared.image.shape and small.dtype == torch.uint8
        assert prepared.image.min() >= -1 and prepared.image.max() <= 1

        restored = prepared.restore_segmentation(one_hot(small))

        assert restored.shape == label.shape and restored.dtype == np.uint8
        assert image.to_source(restored).shape == image.source.shape
        assert overlap(restored > 0, label.array > 0) > 0.95


@pytest.mark.parametrize("name", REAL_SETS)
def test_without_resampling_a_label_comes_back_voxel_for_voxel(shared_data: Path, name: str) -> None:
    case = find_cases(shared_data / name, labelled=True)[-1]
    assert case.label is not None
    image, label = read_volume(case.image), read_label(case.label)
    for crop in (False, True):
        preprocessing = Preprocessing(crop_foreground=crop)
        prepared = preprocessing.prepare(image)
        restored = prepared.restore_segmentation(one_hot(preprocessing.prepare_label(label, prepared)))
        inside = np.zeros(label.shape, bool)
        inside[prepared.grid.inside()] = True
        np.testing.assert_array_equal(restored, np.where(inside, label.array, 0))
        assert overlap(restored > 0, label.array > 0) > 0.999


@pytest.mark.parametrize("size", [(20, 21, 22), (110, 110, 110)])  # below and above MONAI's switch at a million
def test_intensities_are_scaled_as_monai_scales_them(size: tuple[int, int, int]) -> None:
    from monai.transforms import ScaleIntensityRangePercentiles

    array = np.random.default_rng(0).gamma(2.0, 100.0, size).astype(np.float32)
    expected = ScaleIntensityRangePercentiles(0.05, 99.95, -1, 1, clip=True)(torch.from_numpy(array))
    prepared = Preprocessing(crop_foreground=False).prepare(volume(array))
    torch.testing.assert_close(prepared.image[0], expected.as_tensor(), atol=2e-5, rtol=0)


def test_a_window_maps_hounsfield_units() -> None:
    array = np.zeros((4, 5, 6))
    array[0, 0, :4] = (-1000, -175, 37.5, 900)
    image = Preprocessing(window=(-175, 250), crop_foreground=False).prepare(volume(array)).image[0]
    np.testing.assert_allclose(image[0, 0, :4], (-1, -1, 0, 1), atol=1e-6)


@pytest.mark.parametrize("padding", [-32768, -8192])
def test_what_a_scanner_puts_outside_of_its_field_of_view_takes_no_contrast(padding: float) -> None:
    tissue = np.random.default_rng(0).uniform(-1000, 1500, (12, 12, 12))
    padded = tissue.copy()
    padded[:, :3] = padding
    plain, image = (Preprocessing(crop_foreground=False).prepare(volume(each)).image[0] for each in (tissue, padded))
    np.testing.assert_allclose(image[:, 3:], plain[:, 3:], atol=0.05)
    assert image[:, :3].max() < -0.95
    for sound in (tissue, np.where(tissue < -990, -2000, tissue), np.full((4, 4, 4), -5000.0)):
        assert without_padding(sound.astype(np.float32)).min() == np.float32(sound.min())


def test_resampling_is_torchs_trilinear_interpolation() -> None:
    array = np.random.default_rng(0).normal(size=(12, 15, 9)).astype(np.float32)
    preprocessing = Preprocessing(spacing=(0.7, 2.2, 1.0), window=(-4, 4), crop_foreground=False)
    prepared = preprocessing.prepare(volume(array))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None, None], size=prepared.image.shape[1:], mode="trilinear"
    )
    torch.testing.assert_close(prepared.image[0], (expected[0, 0] / 4).clamp(-1, 1), atol=1e-5, rtol=0)


def test_the_field_of_view_is_kept_and_the_spacing_told_is_the_real_one() -> None:
    prepared = Preprocessing(spacing=(2, 2, 2), crop_foreground=False).prepare(volume(np.zeros((31, 40, 9)), (1, 1, 5)))
    assert prepared.image.shape == (1, 16, 20, 22)
    assert prepared.spacing == pytest.approx((31 / 16, 2, 45 / 22))


def test_the_crop_keeps_the_foreground_with_a_margin() -> None:
    array = np.zeros((40, 40, 40))
    array[10:20, 15:25, 2:38] = 5
    preprocessing = Preprocessing(window=(0, 10))
    prepared = preprocessing.prepare(volume(array))
    assert prepared.grid.start == (6, 11, 0) and prepared.grid.stop == (24, 29, 40)
    scores = torch.stack([torch.zeros(prepared.image.shape[1:]), torch.ones(prepared.image.shape[1:])])
    restored = prepared.restore_segmentation(scores)
    assert restored.sum() == 18 * 18 * 40 and restored[6:24, 11:29].all()


@pytest.mark.parametrize("spacing", [None, (0.8, 1.7, 0.9)])
def test_a_map_of_values_is_restored_and_zero_outside_of_the_crop(spacing: tuple[float, float, float] | None) -> None:
    array = np.zeros((30, 20, 24))
    array[12:18, 8:12, 10:14] = 1
    prepared = Preprocessing(spacing=spacing, window=(0, 1)).prepare(volume(array))
    restored = prepared.restore_map((prepared.image[0] + 1) / 2)
    assert restored.shape == array.shape and restored.dtype == np.float32
    assert restored[0, 0, 0] == 0 and restored[15, 10, 12] == pytest.approx(1)
    assert np.abs(restored - array).mean() < 0.02


def test_scores_in_half_precision_and_many_classes_are_restored() -> None:
    image, label, affine = draw_case(3)
    case = Volume.from_array(image, affine, "case.nii")
    truth = Volume.from_array(label, affine, "label.nii")
    preprocessing = Preprocessing(spacing=(1.5, 1.5, 1.5))
    prepared = preprocessing.prepare(case)
    scores = one_hot(preprocessing.prepare_label(truth, prepared)).to(torch.bfloat16) * 20 - 10
    restored = prepared.restore_segmentation(torch.cat([scores, torch.full_like(scores, -30)]))
    assert set(np.unique(restored)) == {0, 1, 2}
    assert all(overlap(restored == value, truth.array == value) > 0.9 for value in (1, 2))


@pytest.mark.parametrize("value", [0, 7, -1000])
@pytest.mark.parametrize("window", [None, (-175, 250)])
def test_a_constant_image_is_prepared_without_dividing_by_zero_and_refused_for_training(
    value: float, window: tuple[float, float] | None
) -> None:
    constant = volume(np.full((5, 6, 7), value))
    prepared = Preprocessing(window=window).prepare(constant)
    assert torch.isfinite(prepared.image).all() and prepared.image.shape == (1, 5, 6, 7)
    with pytest.raises(VolumeError, match="same value"):
        refuse_constant(constant)


def test_a_nearly_empty_image_keeps_its_few_bright_voxels() -> None:
    array = np.zeros((40, 40, 40))
    array[20, 20, 20:22] = 900
    prepared = Preprocessing(crop_foreground=False).prepare(volume(array))
    assert prepared.image.max() == 1 and prepared.image.min() == -1


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 5, 7)])
def test_a_tiny_volume_survives_a_coarse_spacing(shape: tuple[int, int, int]) -> None:
    preprocessing = Preprocessing(spacing=(5, 5, 5))
    prepared = preprocessing.prepare(volume(np.random.default_rng(0).normal(size=shape)))
    assert min(prepared.image.shape) >= 1
    assert prepared.restore_segmentation(torch.rand(2, *prepared.image.shape[1:])).shape == shape


def test_values_of_another_shape_are_not_restored() -> None:
    prepared = Preprocessing().prepare(volume(np.random.default_rng(0).normal(size=(8, 8, 8))))
    with pytest.raises(ValueError, match="prepared image"):
        prepared.restore_segmentation(torch.zeros(2, 8, 8, 9))


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(), Preprocessing((1, 2, 3.5), (1, 99), (-175, 250), False), Preprocessing(spacing=(1.5, 1.5, 2.0))],
)
def test_settings_survive_json(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "values",
    [
        {"spacing": [1, 1]},
        {"spacing": [1, 1, 0]},
        {"spacing": "abc"},
        {"spacing": [1, 1, float("nan")]},
        {"spacing": 2},
        {"percentiles": [99, 1]},
        {"percentiles": [0, 101]},
        {"percentiles": None},
        {"window": [5, 5]},
        {"crop_foreground": "yes"},
        {"spacings": [1, 1, 1]},
    ],
)
def test_an_impossible_setting_is_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))) as caught:
        Preprocessing.from_dict(values)
    assert "\n" not in str(caught.value)
