"""Figures of known shapes in mm, next to MONAI on whole arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from fm3d_core.evaluation import dice_per_label, scores_of_masks, scores_per_label

SPACING = (1.0, 0.5, 3.0)


def cube(shift: tuple[int, int, int] = (0, 0, 0), shape: tuple[int, int, int] = (24, 30, 16)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    x, y, z = shift
    mask[6 + x : 14 + x, 8 + y : 18 + y, 4 + z : 9 + z] = 1
    return mask


@pytest.mark.parametrize("shift", [(3, 0, 0), (0, 6, 0), (0, 0, 1), (0, 0, -1)])
def test_a_cube_shifted_by_3_mm_has_a_hausdorff_distance_of_3_mm_along_every_axis(shift: tuple[int, int, int]) -> None:
    scores = scores_per_label(cube(shift), cube(), ("liver",), SPACING, tolerance=2)["liver"]
    assert scores.hd95 == pytest.approx(3)
    assert 0 < scores.surface_dice < 1
    assert scores_per_label(cube(shift), cube(), ("liver",), SPACING, tolerance=3)["liver"].surface_dice == 1
    assert scores.found_in == "both" and scores.counted and not scores.distance_missing


def test_a_perfect_segmentation_has_no_distance() -> None:
    scores = scores_of_masks(cube() == 1, cube() == 1, SPACING)
    assert (scores.dice, scores.hd95, scores.surface_dice) == (1, 0, 1)


def test_the_share_of_a_shifted_plate_within_the_tolerance_is_that_of_its_area() -> None:
    """Plates of 20 x 20 voxels that are two voxels thick, one shifted by 10 mm: half of them is near."""
    truth, prediction = np.zeros((2, 40, 30, 12), bool)
    truth[5:25, 5:25, 5:7] = True
    prediction[15:35, 5:25, 5:7] = True
    assert scores_of_masks(prediction, truth, (1, 1, 1), 0.5).surface_dice == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("seed", range(4))
def test_cropping_to_a_structure_changes_no_figure(seed: int) -> None:
    """Blobs anywhere, also at the border of the array, against MONAI on the whole arrays."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, 40, 36, 20), np.uint8)
    for value in (1, 2, 3):
        x, y, z = random.integers(0, (28, 24, 8))
        for array in (truth, prediction):
            blob = gaussian_filter(random.normal(size=(14, 14, 12)), 2) > 0
            array[x : x + 14, y : y + 14, z : z + 12][blob[: 40 - x, : 36 - y, : 20 - z]] = value
    names = ("liver", "spleen", "kidney")
    scores = scores_per_label(prediction, truth, names, SPACING, tolerance=1.5)
    for value, name in enumerate(names, start=1):
        masks = [torch.from_numpy(array == value)[None, None] for array in (prediction, truth)]
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=SPACING)
        surface = compute_surface_dice(*masks, [1.5], include_background=True, spacing=SPACING, use_subvoxels=True)
        assert scores[name].hd95 == float(hd95) > 0
        assert scores[name].surface_dice == pytest.approx(float(surface), abs=1e-6)
        assert 0 < scores[name].surface_dice < 1
        assert scores[name].dice == pytest.approx(dice_per_label(prediction, truth, names)[name], abs=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_structure_in_one_only_has_dice_0_and_no_distance(swapped: bool) -> None:
    arrays = [cube(), np.zeros_like(cube())]
    prediction, truth = arrays[::-1] if swapped else arrays
    scores = scores_per_label(prediction, truth, ("liver",), SPACING)["liver"]
    assert (scores.dice, scores.surface_dice) == (0, 0) and math.isnan(scores.hd95)
    assert scores.found_in == ("truth" if swapped else "prediction")
    assert scores.counted and scores.distance_missing


def test_a_structure_in_neither_is_not_counted() -> None:
    scores = scores_per_label(cube(), cube(), ("liver", "spleen"), SPACING)["spleen"]
    assert not scores.counted and not scores.distance_missing
    assert all(math.isnan(value) for value in (scores.dice, scores.hd95, scores.surface_dice))


def test_grids_that_differ_and_impossible_tolerances_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        scores_per_label(cube(), cube()[1:], ("liver",), SPACING)
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance"):
            scores_per_label(cube(), cube(), ("liver",), SPACING, tolerance)
