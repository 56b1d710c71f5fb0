"""What a predictor says of a volume: the label map, how uncertain each voxel is, and the scores behind both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from fm3d_core.volumes import PreparedVolume


@dataclass(frozen=True)
class Prediction:
    """A segmentation and what is known of it.

    Attributes:
        labels: (X, Y, Z) uint8 on the volume's own RAS grid, 0 background; ``write_label`` brings it to the file's.
        uncertainty: (X, Y, Z) float32 from 0 (sure) to 1 (all classes alike), same grid: the entropy of the class
            probabilities over its largest value, of regions that overlap that of the least sure one; ``write_map``
            brings it to the file's grid.
        sizes: structure -> ml.
        confidence: structure -> Dice between its mask and the probabilities the mask was cut from: what Dice to expect
            if the probabilities were right, which those of a network seldom are. 0 where it was not found.
        scores: (classes, X', Y', Z') float32 on the prepared grid, before the softmax, of regions before the sigmoid.
        prepared: what the network saw, and the way back.
        voxel_ml: size of a voxel of ``labels``.
        stability: structure -> mean Dice between the segmentation and those of slightly changed images; empty where
            none were looked at. NaN where a structure is in neither.
        regions: name -> mask (X, Y, Z) bool on the grid of ``labels``, of regions that may overlap; else empty.
        removed: structure -> ml of small parts apart from the rest of it that were taken out
            (:mod:`fm3d_core.inference.islands`).
    """

    labels: npt.NDArray[np.uint8]
    uncertainty: npt.NDArray[np.float32]
    sizes: dict[str, float]
    confidence: dict[str, float]
    scores: torch.Tensor
    prepared: PreparedVolume
    voxel_ml: float
    stability: dict[str, float] = field(default_factory=dict)
    regions: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    removed: dict[str, float] = field(default_factory=dict)


def normalised_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Shannon's entropy of (classes, X, Y, Z) probabilities over log(classes): (X, Y, Z) from 0 to 1."""
    import torch

    total = torch.zeros(probabilities.shape[1:])
    for each in probabilities:  # one class at a time bounds the memory
        total -= torch.xlogy(each, each)
    return (total / math.log(len(probabilities))).clamp_(0, 1)


def region_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy of each region's yes or no, over log(2), of the least sure region: (regions, X, Y, Z) to (X, Y, Z)."""
    import torch

    least_sure = torch.zeros(probabilities.shape[1:])
    for each in probabilities:
        torch.maximum(least_sure, normalised_entropy(torch.stack([each, 1 - each])), out=least_sure)
    return least_sure


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice of two masks of one shape; NaN where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else math.nan


def sizes_in_ml(labels: npt.NDArray[np.uint8], voxel_ml: float, values: dict[str, int]) -> dict[str, float]:
    """Structure -> ml in a label map with voxels of ``voxel_ml``."""
    import numpy as np

    counts = np.bincount(labels.ravel(), minlength=256)
    return {name: int(counts[value]) * voxel_ml for name, value in values.items()}


def confidence_of(mask: torch.Tensor, probability: torch.Tensor) -> float:
    """See :attr:`Prediction.confidence`; of a structure's mask and probability (X, Y, Z)."""
    total = float(mask.sum() + probability.sum())
    return float(2 * probability[mask].sum()) / total if total else 0.0
