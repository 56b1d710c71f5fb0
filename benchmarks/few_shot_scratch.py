"""The peers from scratch: MONAI's U-Net and Swin UNETR in bfloat16, bounded by core-seconds.

The recipe is that of ../shared/specs/few_shot_anchor.md: two units a level, AdamW with polynomial decay over the
budget, MONAI's affine, noise, scale and contrast augmentation, Dice + cross-entropy. Volumes no larger than the crop
are padded and seen whole, two a step; of others a step sees two crops of one volume, two in three on a structure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from few_shot_row import Row, Trained
from few_shot_sets import SETS, Size, Split

from fm3d_core.devices import autocast
from fm3d_core.volumes import Case, read_label, read_volume

if TYPE_CHECKING:
    import torch


def train_unet(row: Row, volumes: Split) -> Trained:
    """MONAI's UNet 16-32-64-128, of thin crops with a first stride that leaves the slices."""
    from monai.networks.nets import UNet

    crop = SETS[row.set].crop
    strides: Sequence[Any] = (2, 2, 2) if min(crop) >= 48 else ((2, 2, 1), (2, 2, 2), (2, 2, 2))

    def build() -> torch.nn.Module:
        return UNet(3, 1, len(volumes.labels) + 1, (16, 32, 64, 128), strides, num_res_units=2, norm="instance")

    return _train(row, volumes, build, crop, 2e-3)


def train_swin_unetr(row: Row, volumes: Split) -> Trained:
    """MONAI's SwinUNETR of 12 features; its crops are multiples of 32 voxels."""
    from monai.networks.nets import SwinUNETR

    x, y, z = (-(-edge // 32) * 32 for edge in SETS[row.set].crop)

    def build() -> torch.nn.Module:
        return SwinUNETR(in_channels=1, out_channels=len(volumes.labels) + 1, feature_size=12)

    return _train(row, volumes, build, (x, y, z), 1e-3)


def _train(row: Row, volumes: Split, build: Callable[[], torch.nn.Module], crop: Size, rate: float) -> Trained:
    import torch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.transforms import SpatialPad
    from monai.utils import set_determinism

    set_determinism(row.seed)
    whole, device = SETS[row.set].whole, torch.device("cpu")
    started = time.process_time()
    loaded = [_load(case, whole) for case in volumes.training]
    prepared = time.process_time()
    network, transform, random = build(), _transform(crop, whole), np.random.default_rng(row.seed)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-4)
    steps = 0
    while (spent := time.process_time() - prepared) < row.budget:
        optimiser.param_groups[0]["lr"] = rate * (1 - spent / row.budget) ** 0.9
        if whole:
            batch = [transform(loaded[index]) for index in random.integers(0, len(loaded), 2)]
        else:
            batch = transform(loaded[random.integers(0, len(loaded))])
        image = torch.stack([item["image"].as_tensor() for item in batch])
        label = torch.stack([item["label"].as_tensor() for item in batch])
        with autocast(device):
            scores = network(image)
        optimiser.zero_grad()
        loss_function(scores.float(), label).backward()
        optimiser.step()
        steps += 1
    trained = time.process_time() - prepared
    network.eval()
    padding = SpatialPad(crop, mode="minimum")

    def segment(case: Case) -> npt.NDArray[np.uint8]:
        image = torch.from_numpy(normalised(read_volume(case.image).array, whole))[None]
        padded = padding(image)  # as in training: the window's own padding has zeros
        with torch.no_grad(), autocast(device):
            scores = sliding_window_inference(padded[None], crop, 4, network, overlap=0.25, mode="gaussian")
        found = padding.inverse(scores.float().argmax(1))  # type: ignore[union-attr]
        return found[0].numpy().astype(np.uint8)

    return Trained(segment, prepared - started, trained, steps, {"learning_rate": rate})


def _load(case: Case, whole: bool) -> dict[str, torch.Tensor]:
    import torch

    assert case.label is not None
    image = normalised(read_volume(case.image).array, whole)
    label = read_label(case.label).array.astype(np.float32)
    return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None]}


def normalised(image: npt.NDArray[np.float32], whole: bool) -> npt.NDArray[np.float32]:
    """Zero mean and unit deviation of a tight crop; else the percentiles 0.5 and 99.5 become -1 and 1."""
    if whole:
        return ((image - image.mean()) / (image.std() + 1e-6)).astype(np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    return (np.clip((image - low) / (high - low + 1e-6), 0, 1) * 2 - 1).astype(np.float32)


def _transform(crop: Size, whole: bool) -> Callable[[Any], Any]:
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandCropByPosNegLabeld,
        RandGaussianNoised,
        RandScaleIntensityd,
        SpatialPadd,
    )

    keys = ["image", "label"]
    crops = [] if whole else [RandCropByPosNegLabeld(keys, "label", crop, pos=2, neg=1, num_samples=2)]
    return Compose(
        [
            SpatialPadd(["image"], crop, mode="minimum"),
            SpatialPadd(["label"], crop),
            *crops,
            RandAffined(
                keys,
                prob=0.9 if whole else 0.5,
                rotate_range=(0.25,) * 3 if whole else (0.2,) * 3,
                scale_range=(0.15,) * 3,
                translate_range=(4,) * 3 if whole else None,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised(["image"], prob=0.3, std=0.15 if whole else 0.1),
            RandScaleIntensityd(["image"], factors=0.2, prob=0.5),
            RandAdjustContrastd(["image"], prob=0.3, gamma=(0.7, 1.5)),
        ]
    )
