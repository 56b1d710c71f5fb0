"""Each change computes what MONAI's does, and happens as often as published."""

from __future__ import annotations

import monai.transforms as mt
import numpy as np
import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.augmentations import (
    FIRST_GLOBAL,
    LOCAL,
    SECOND_GLOBAL,
    AugmentationSettings,
    add_gibbs_ringing,
    augment,
    change_contrast,
    draw_control_points,
    flip_and_turn,
    sharpen,
    shift_histogram,
    smooth,
)

SIGMA, SECOND_SIGMA = (0.3, 0.8, 1.4), (0.5, 0.6, 0.9)


def _crop(shape: tuple[int, int, int] = (20, 22, 17)) -> torch.Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("name", ["contrast", "smooth", "sharpen", "gibbs 0.3", "gibbs 0.9", "gibbs even"])
def test_a_change_equals_monais(name: str) -> None:
    crop = _crop((20, 22, 18) if name == "gibbs even" else (20, 22, 17))
    found, transform = {
        "contrast": (change_contrast(crop, 1.7), mt.AdjustContrast(1.7)),
        "smooth": (smooth(crop, SIGMA), mt.GaussianSmooth(SIGMA)),
        "sharpen": (sharpen(crop, SIGMA, SECOND_SIGMA, 20.0), mt.GaussianSharpen(SIGMA, SECOND_SIGMA, 20.0)),
        "gibbs 0.3": (add_gibbs_ringing(crop, 0.3), mt.GibbsNoise(0.3)),
        "gibbs 0.9": (add_gibbs_ringing(crop, 0.9), mt.GibbsNoise(0.9)),
        "gibbs even": (add_gibbs_ringing(crop, 0.6), mt.GibbsNoise(0.6)),
    }[name]
    expected = torch.as_tensor(transform(crop))
    assert not torch.allclose(expected, crop, atol=1e-3)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_the_histogram_shift_equals_monais() -> None:
    crop, points = _crop(), draw_control_points(10, torch.Generator().manual_seed(5))
    transform = mt.RandHistogramShift(10, prob=1.0)
    transform.randomize()
    transform._do_transform = True
    transform.reference_control_points, transform.floating_control_points = np.linspace(0, 1, 10), points.numpy()
    expected = torch.as_tensor(transform(crop, randomize=False))
    torch.testing.assert_close(shift_histogram(crop, points), expected, atol=2e-6, rtol=1e-5)
    assert (points.diff() >= 0).all() and points[0] == 0 and points[-1] == 1
    constant = torch.full((1, 3, 3, 3), 0.5)
    assert torch.equal(shift_histogram(constant, points), constant)


def test_flips_and_turns_come_as_often_as_published_and_keep_the_shape() -> None:
    generator, crop = torch.Generator().manual_seed(0), torch.arange(27.0).reshape(1, 3, 3, 3)
    kept = sum(torch.equal(flip_and_turn(crop, 0.3, 0.3, generator), crop) for _ in range(3000)) / 3000
    assert 0.7**6 - 0.03 < kept < 0.7**6 + 0.03
    flipped = sum(torch.equal(flip_and_turn(crop, 0.3, 0.0, generator), crop.flip(2)) for _ in range(3000)) / 3000
    assert abs(flipped - 0.3 * 0.7**2) < 0.02
    assert flip_and_turn(_crop(), 0.5, 1.0, generator).shape == _crop().shape


@pytest.mark.parametrize(
    ("recipe", "unchanged"), [(LOCAL, 0.2 * 0.5), (SECOND_GLOBAL, 0.2 * 0.9 * 0.8), (FIRST_GLOBAL, 0.0)]
)
def test_a_recipe_leaves_a_crop_unchanged_as_often_as_its_probabilities_say(recipe: object, unchanged: float) -> None:
    generator, crop = torch.Generator().manual_seed(1), _crop((5, 5, 5))
    settings = AugmentationSettings(flip=0, rotate=0, gibbs=(0.9, 0.9))
    same = sum(torch.equal(augment(crop, recipe, settings, generator), crop) for _ in range(2000)) / 2000  # type: ignore[arg-type]
    assert abs(same - unchanged) < 0.025


def test_unknown_changes_and_probabilities_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown change 'blur'"):
        AugmentationSettings(local_crops=((("blur", 1.0),),))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="probability"):
        AugmentationSettings(flip=1.5)
