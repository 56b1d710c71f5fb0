"""Crops: where they are cut, that image and label move together, that the plain crop is exact."""

from __future__ import annotations

import math

import pytest
import torch

from fm3d_core.adaptation.augmentation import Augmentation, change_intensities, crop_positions, sample_crop
from fm3d_core.adaptation.batches import CROP_VOXELS, LARGEST_CROP, CropSource, plan_crop
from fm3d_core.adaptation.cases import TrainingCase


def _case(shape: tuple[int, int, int], seed: int = 0) -> TrainingCase:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((1, *shape), generator=generator) * 2 - 1
    return TrainingCase("case", image, (image > 0.9).to(torch.uint8), (1.0, 1.0, 1.0))


def test_a_straight_crop_is_the_volumes_own_voxels_and_background_outside() -> None:
    case = _case((20, 24, 28))
    grid = crop_positions((8, 8, 40), torch.tensor([10.5, 11.5, 13.5]), None, torch.Generator())
    image, label = sample_crop(case.image, case.label, grid)
    torch.testing.assert_close(image[..., 6:34], case.image[:, 7:15, 8:16], atol=1e-5, rtol=0)
    assert torch.equal(label[..., 6:34], case.label[:, 7:15, 8:16].float())
    assert (image[..., :5] == -1).all() and (label[..., :5] == 0).all()


def test_image_and_label_are_deformed_together() -> None:
    coordinates = torch.linspace(-1, 1, 40)
    ball = (coordinates[:, None, None] ** 2 + coordinates[None, :, None] ** 2 + coordinates**2 < 0.3).float()[None]
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        grid = crop_positions((32,) * 3, torch.full((3,), 19.5), Augmentation(probability=1.0), generator)
        image, label = sample_crop(ball * 2 - 1, ball, grid)
        assert ((image > 0).float() != label).float().mean() < 0.02


def test_a_crop_wholly_outside_is_background() -> None:
    case = _case((10, 10, 10))
    positions = crop_positions((4, 4, 4), torch.tensor([50.0, -30.0, 5.0]), None, torch.Generator())
    image, label = sample_crop(case.image, case.label, positions)
    assert (image == -1).all() and (label == 0).all()


def test_random_intensities_change_the_image_but_stay_near_its_range() -> None:
    image = _case((16, 16, 16)).image
    changed = change_intensities(image, Augmentation(probability=1.0), torch.Generator().manual_seed(0))
    assert not torch.equal(changed, image) and changed.abs().max() < 3 and changed.isfinite().all()


def test_crops_centre_on_every_structure_also_on_a_rare_one() -> None:
    label = torch.zeros((1, 64, 64, 64), dtype=torch.uint8)
    label[0, 5:45, 5:45, 5:45] = 1
    label[0, 60, 60, 60] = 2
    case = TrainingCase("case", torch.zeros((1, 64, 64, 64)), label, (1.0, 1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    source = CropSource(None, [case], (16, 16, 16), 1, generator, torch.device("cpu"), None)  # type: ignore[arg-type]
    targets = [source.draw().target for _ in range(60)]
    assert sum(bool((target == 2).any()) for target in targets) >= 10
    assert all(target.shape == (1, 1, 16, 16, 16) for target in targets)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((35, 51, 35), (40, 56, 40)), ((4, 5, 7), (8, 8, 8)), ((128, 128, 30), None), ((300, 300, 300), None)],
)
def test_the_crop_fits_the_case_the_backbone_and_the_budget(
    shape: tuple[int, int, int], expected: tuple[int, int, int] | None
) -> None:
    crop = plan_crop([_case(shape)], (8, 8, 8))
    assert all(edge % 8 == 0 for edge in crop)
    assert math.prod(map(min, crop, shape)) <= CROP_VOXELS  # what is beyond the case does not count
    assert expected is None or crop == expected


def test_hearts_of_few_slices_are_seen_nearly_whole() -> None:
    assert plan_crop([_case((144, 144, 10))], (8, 8, 8)) == (104, 104, 16)


def test_a_coarse_backbone_gets_a_larger_crop() -> None:
    assert plan_crop([_case((300, 300, 300))], (16, 16, 16)) == (64, 64, 64)
    assert math.prod(plan_crop([_case((300, 300, 300))], (32, 32, 32))) <= LARGEST_CROP
