"""Masks and batches equal the reference's collation, and blocks keep their promises."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.masking import MaskSettings, collate_crops, draw_masks

GRID = (6, 6, 6)


def _samples(rules: Any, images: int) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    return [
        (
            [rules.det(f"g{sample}{crop}", (1, 96, 96, 96)) for crop in range(2)],
            [torch.full((1, 16, 16, 16), 10.0 * crop + sample) for crop in range(3)],
        )
        for sample in range(images)
    ]


def test_the_collated_batch_equals_the_reference(parity_file: Any, parity_rules: Any) -> None:
    expected = parity_file("collate.pt")
    batch = collate_crops(_samples(parity_rules, 4), (16, 16, 16), MaskSettings(), random.Random(0))
    assert torch.equal(batch.masks.hidden, expected["collated_masks"])
    assert torch.equal(batch.masks.indices, expected["mask_indices_list"])
    assert torch.equal(batch.masks.weights, expected["masks_weight"])
    assert batch.masks.upper_bound == expected["upperbound"]
    assert len(batch.masks.indices) == expected["n_masked_patches"].item()
    torch.testing.assert_close(batch.global_crops[:, 0, 0, 0, 0], expected["global_order_first_voxel"])
    assert batch.local_crops is not None
    assert batch.local_crops[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert batch.batch == 4


def test_the_crops_get_the_type_asked_for_and_none_are_no_local_crops() -> None:
    crop = torch.zeros(1, 32, 32, 32)
    batch = collate_crops([([crop, crop], [])], (16, 16, 16), MaskSettings(), random.Random(0), torch.float16)
    assert batch.global_crops.dtype == torch.float16 and batch.local_crops is None


def test_different_numbers_of_crops_are_refused() -> None:
    crop = torch.zeros(1, 32, 32, 32)
    with pytest.raises(ValueError, match="do not make one batch"):
        collate_crops([([crop], []), ([crop, crop], [])], (16, 16, 16), MaskSettings(), random.Random(0))


@pytest.mark.parametrize("shape", ["uniform", "blocks"])
def test_every_ratio_comes_from_its_own_part_of_the_range(shape: Any) -> None:
    masks = draw_masks(8, GRID, MaskSettings(shape=shape), random.Random(3))
    counts = sorted(count for count in masks.hidden.sum(dim=1).tolist() if count)
    bounds = [int(216 * bound) for bound in torch.linspace(0.2, 0.75, 5).tolist()]
    assert len(counts) == 4 and all(
        low <= count <= high for low, count, high in zip(bounds[:-1], counts, bounds[1:], strict=True)
    )
    assert len(masks.indices) <= masks.upper_bound == sum(bounds[1:])
    assert masks.weights.sum().item() == pytest.approx(4)


def test_blocks_hang_together_more_than_single_patches() -> None:
    def neighbours(shape: Any) -> float:
        masks = draw_masks(16, GRID, MaskSettings(ratio=(0.3, 0.3), probability=1, shape=shape), random.Random(1))
        cube = masks.hidden.reshape(-1, *GRID)
        pairs = (cube[:, 1:] & cube[:, :-1]).sum() + (cube[..., 1:] & cube[..., :-1]).sum()
        return pairs.item() / cube.sum().item()

    assert neighbours("blocks") > 2 * neighbours("uniform")


def test_the_same_generator_state_gives_the_same_masks_and_none_or_all_are_possible() -> None:
    for shape in ("uniform", "blocks"):
        settings = MaskSettings(shape=shape)  # type: ignore[arg-type]
        first, second = (draw_masks(6, (3, 4, 5), settings, random.Random(7)) for _ in range(2))
        assert torch.equal(first.hidden, second.hidden)
        everything = draw_masks(2, (3, 2, 1), MaskSettings((1, 1), 1, shape), random.Random(0))  # type: ignore[arg-type]
        assert everything.hidden.all()
    nothing = draw_masks(2, GRID, MaskSettings(probability=0), random.Random(0))
    assert not nothing.hidden.any() and len(nothing.indices) == len(nothing.weights) == nothing.upper_bound == 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="not a share of the whole"):
        MaskSettings(ratio=(0.8, 0.2))
    with pytest.raises(SettingsError, match="unknown mask shape 'spheres'"):
        MaskSettings(shape="spheres")  # type: ignore[arg-type]
