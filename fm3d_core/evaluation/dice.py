"""Dice per structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def dice_per_label(
    prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], labels: Sequence[str]
) -> dict[str, float]:
    """The Dice overlap of each structure, by monai.metrics.

    Args:
        prediction, truth: (X, Y, Z) with voxel values 0 (background) and i + 1 for ``labels[i]``.
        labels: names of the structures.

    Returns:
        Name -> Dice from 0 to 1. NaN where a structure is in neither: there is nothing to measure. 0 where it is in
        one only.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}")
    # one structure at a time bounds the memory
    return {name: dice_of_masks(prediction == value, truth == value) for value, name in enumerate(labels, start=1)}


def dice_of_masks(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """The Dice overlap of two masks of one shape: NaN if both are empty, 0 if one is."""
    import torch
    from monai.metrics import compute_dice

    if not prediction.any() and not truth.any():
        return math.nan
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    return float(compute_dice(*masks, ignore_empty=False))


def mean_dice(scores: Mapping[str, float]) -> float:
    """The mean over the structures that could be measured; NaN if there is none."""
    measured = [score for score in scores.values() if not math.isnan(score)]
    return sum(measured) / len(measured) if measured else math.nan
