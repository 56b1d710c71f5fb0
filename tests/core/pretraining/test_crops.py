"""Boxes follow the published rule, and resizing averages what it covers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.crops import GLOBAL_CROPS, LOCAL_CROPS, CropSettings, draw_box, resample

SHAPE = (300, 250, 80)


@pytest.mark.parametrize("settings", [GLOBAL_CROPS, LOCAL_CROPS])
def test_boxes_lie_in_the_volume_and_keep_area_aspect_and_depth(settings: CropSettings) -> None:
    generator = torch.Generator().manual_seed(0)
    areas, aspects, depths = [], [], []
    for _ in range(400):
        box = draw_box(SHAPE, settings, generator)
        assert all(b >= 0 and b + n <= size for b, n, size in zip(box.start, box.length, SHAPE, strict=True))
        x, y, z = box.length
        areas.append(x * y / (SHAPE[0] * SHAPE[1]))
        aspects.append(y / x)
        depths.append(z / SHAPE[2])
    low, high = settings.area
    assert low - 0.01 < min(areas) < low + 0.05 and max(areas) <= high + 0.01
    assert settings.depth[0] - 0.01 < min(depths) < settings.depth[0] + 0.02
    assert settings.depth[1] - 0.02 < max(depths) <= settings.depth[1] + 0.01
    assert 0.88 < min(aspects) < 0.93 and 1.07 < max(aspects) < 1.13
    assert abs(sum(math.log(aspect) for aspect in aspects) / 400) < 0.02  # as often wide as tall


def test_a_plane_too_narrow_for_the_aspect_gives_the_largest_centred_rectangle() -> None:
    box = draw_box((200, 40, 30), CropSettings((8, 8, 8), 1, (0.9, 1.0), (1.0, 1.0)), torch.Generator())
    assert box.length == (44, 40, 30) and box.start == (78, 0, 0)
    tiny = draw_box((1, 1, 1), GLOBAL_CROPS, torch.Generator())
    assert tiny.length == (1, 1, 1)


@pytest.mark.parametrize("size", [(24, 20), (70, 90), (100, 17)])
def test_resizing_in_the_plane_equals_torch_with_antialiasing(size: tuple[int, int]) -> None:
    values = torch.randn(64, 75, 5, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(values.permute(2, 0, 1)[None], size=size, mode="bilinear", antialias=True)[0]
    found = resample(values, (0, 0, 0), values.shape, (*size, 5))
    torch.testing.assert_close(found, expected.permute(1, 2, 0), atol=5e-5, rtol=0)  # torch places in float32


def test_enlarging_equals_trilinear_interpolation() -> None:
    values = torch.randn(9, 7, 5, generator=torch.Generator().manual_seed(2))
    expected = F.interpolate(values[None, None], size=(20, 31, 12), mode="trilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(resample(values, (0, 0, 0), values.shape, (20, 31, 12)), expected, atol=1e-6, rtol=1e-5)


def test_a_box_that_begins_inside_a_voxel_is_placed_exactly() -> None:
    ramp = torch.arange(20.0)[:, None, None].expand(20, 4, 4)
    found = resample(ramp, (2.5, 0, 0), (10.0, 4.0, 4.0), (5, 4, 4))[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([3.0, 5.0, 7.0, 9.0, 11.0]))  # centre minus half a voxel


def test_fine_stripes_vanish_instead_of_becoming_coarse_ones() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(96)[:, None, None].expand(192, 8, 8)
    assert resample(stripes, (0, 0, 0), stripes.shape, (41, 8, 8)).abs().max() < 0.3
    assert F.interpolate(stripes[None, None], size=(41, 8, 8), mode="trilinear")[0, 0].abs().max() > 0.9


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(SettingsError, match="Shares rise"):
        CropSettings((8, 8, 8), 2, (0.9, 0.1), (0.5, 1.0))
