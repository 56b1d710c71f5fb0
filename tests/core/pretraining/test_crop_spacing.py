"""Voxel sizes travel with the crops: through boxes, turns, samples and batches."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from fm3d_core.pretraining.augmentations import AugmentationSettings, augment, augment_with_axes
from fm3d_core.pretraining.crops import Box, CropSettings
from fm3d_core.pretraining.loading import ViewSettings, crop_loader
from fm3d_core.pretraining.masking import MaskSettings, collate_crops
from fm3d_core.pretraining.objective import Place
from fm3d_core.volumes import write_synthetic_cases
from fm3d_core.volumes.crop_store import CropStore
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder


def test_a_box_that_is_resized_has_its_sides_in_mm_over_the_voxels() -> None:
    assert Box((3, 4, 5), (40, 20, 10)).spacing((0.5, 1.0, 4.0), (20, 20, 20)) == (1.0, 1.0, 2.0)


def test_the_axes_that_are_told_are_those_of_the_turned_crop() -> None:
    """A ramp along each axis shows which axis lies where."""
    settings = AugmentationSettings(global_crops=((),), local_crops=(), flip=0.5, rotate=0.7)
    ramps = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"))
    seen = set()
    for seed in range(40):
        for axis in range(3):
            crop, axes = augment_with_axes(ramps[axis : axis + 1], (), settings, torch.Generator().manual_seed(seed))
            assert torch.equal(crop, augment(ramps[axis : axis + 1], (), settings, torch.Generator().manual_seed(seed)))
            along = [int(crop[0].diff(dim=i).abs().sum() > 0) for i in range(3)]
            assert along == [int(source == axis) for source in axes]
            seen.add(axes)
    assert len(seen) == 6


def test_a_batch_has_the_voxel_sizes_in_the_order_of_its_crops(tmp_path: Path) -> None:
    write_synthetic_cases(tmp_path, 3, shape=(30, 28, 26))
    build_crop_store(scan_folder(tmp_path).volumes, tmp_path / "store", workers=1)
    store = CropStore(tmp_path / "store")
    whole = CropSettings((14, 14, 14), 2, (1, 1), (1, 1), aspect=(0.5, 2.0))
    part = CropSettings((7, 7, 7), 3, (1, 1), (1, 1), aspect=(0.5, 2.0))
    plain = AugmentationSettings(global_crops=((),), local_crops=(), flip=0.3, rotate=0)
    loader = crop_loader(store, ViewSettings(whole, part, plain), (7, 7, 7), Place(batch_size=2, seed=1))
    batch = next(iter(loader))
    crops = batch.crops.to("cpu")
    assert crops.global_spacing is not None and crops.local_spacing is not None
    assert crops.global_spacing.shape == (4, 3) and crops.local_spacing.shape == (6, 3)
    volumes = {volume.name: volume for volume in store.volumes}
    for row, name in zip(crops.global_spacing, itertools.cycle(batch.names), strict=False):
        lengths = [voxels * step for voxels, step in zip(volumes[name].shape, volumes[name].spacing, strict=True)]
        # the box is the whole volume, up to the rounding of the plane's sides
        assert (row * 14).tolist() == pytest.approx(lengths, rel=0.1)
    torch.testing.assert_close(crops.local_spacing[:2], 2 * crops.global_spacing[:2])


def test_without_voxel_sizes_a_batch_has_none() -> None:
    crop = torch.zeros(1, 16, 16, 16)
    batch = collate_crops([([crop, crop], [crop])], (16, 16, 16), MaskSettings(), random.Random(0))
    assert batch.global_spacing is None and batch.to("cpu").local_spacing is None
