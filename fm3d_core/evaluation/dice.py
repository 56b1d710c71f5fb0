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
    import torch
    from monai.metrics import compute_dice

    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}")
    scores = {}
    for value, name in enumerate(labels, start=1):  # one structure at a time bounds the memory
        masks = [torch.from_numpy(array == value)[None, None] for array in (prediction, truth)]
        both_empty = not any(bool(mask.any()) for mask in masks)
        scores[name] = math.nan if both_empty else float(compute_dice(*masks, ignore_empty=False))
    return scores


def mean_dice(scores: Mapping[str, float]) -> float:
    """The mean over the structures that could be measured; NaN if there is none."""
    measured = [score for score in scores.values() if not math.isnan(score)]
    return sum(measured) / len(measured) if measured else math.nan
