"""The classifier that is learned anew at each click: ridge regression on frozen features and on what the prompts say.

It is linear in the backbone's maps, so that its score is taken at each map's own resolution and only then brought to
the voxels: one channel is interpolated, not all. The regression is that of
:mod:`fm3d_core.adaptation.closed_form` (Hoerl and Kennard 1970), with weights for single voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.features import RegionFeatures
from fm3d_core.inference.interactive.geodesic import Field, Mask

Table = npt.NDArray[np.float64]

RIDGE = 1e-2  # on standardised features
VOXELS = 3000  # of the structure and of the rest each, drawn at random
CLICK_WEIGHT = 0.1  # of the seeds of one click against all of those
STEEPNESS = 8.0  # from the regression's 0 to 1 to a probability


@dataclass(frozen=True)
class Lesson:
    """Voxels to learn from.

    Attributes:
        voxels: (n,) flat indices into the working grid.
        truth: (n,) 1 for the structure, 0 for the rest.
        weight: (n,).
    """

    voxels: npt.NDArray[np.int64]
    truth: Table
    weight: Table

    @classmethod
    def of(cls, structure: Mask, rest: Mask, positive: Mask, negative: Mask, clicks: tuple[int, int]) -> Lesson:
        """Some voxels of ``structure`` and of ``rest``, as supposed so far, and all seeds.

        Args:
            structure, rest: (X, Y, Z) what is supposed.
            positive, negative: (X, Y, Z) seeds, what is certain.
            clicks: number of positive and negative prompts.
        """
        random = np.random.default_rng(0)  # the same prompts give the same result
        groups = [
            (_some(structure, random), 1.0, 1.0),
            (_some(rest, random), 0.0, 1.0),
            (np.flatnonzero(positive), 1.0, CLICK_WEIGHT * min(clicks[0], 20)),
            (np.flatnonzero(negative), 0.0, CLICK_WEIGHT * min(clicks[1], 20)),
        ]
        groups = [group for group in groups if len(group[0])]
        return cls(
            np.concatenate([voxels for voxels, _, _ in groups]),
            np.concatenate([np.full(len(voxels), truth) for voxels, truth, _ in groups]),
            np.concatenate([np.full(len(voxels), weight / len(voxels)) for voxels, _, weight in groups]),
        )


def learn_and_classify(features: RegionFeatures, further: Sequence[Field], lesson: Lesson) -> Field:
    """Probability (X, Y, Z) of the structure.

    Args:
        features: of the region.
        further: (X, Y, Z) maps beside them.
        lesson: what is learned.
    """
    dense = [features.image, *features.smoothed, *further]
    of_voxels = np.stack([each.ravel()[lesson.voxels] for each in dense], axis=1)
    table = np.concatenate([_at(features, lesson.voxels), of_voxels], axis=1).astype(np.float64)
    slopes, constant = _ridge(table, lesson.truth, lesson.weight)
    score = np.clip(_score(features, dense, slopes, constant), -0.5, 1.5)
    result: Field = (1 / (1 + np.exp(-STEEPNESS * (score - 0.5)))).astype(np.float32)
    return result


def _some(mask: Mask, random: np.random.Generator) -> npt.NDArray[np.int64]:
    found = np.flatnonzero(mask)
    return found if len(found) <= VOXELS else random.choice(found, VOXELS, replace=False)


def _at(features: RegionFeatures, voxels: npt.NDArray[np.int64]) -> Field:
    """The backbone's features (n, C) at flat indices of the working grid."""
    import torch

    from fm3d_core.models.voxel_features import features_at

    places = np.unravel_index(voxels, features.image.shape)
    padded = np.ravel_multi_index(places, features.padded)
    found: Field = features_at(features.maps, torch.from_numpy(padded)[None], features.padded)[0].numpy()
    return found


def _ridge(table: Table, truth: Table, weight: Table) -> tuple[Table, float]:
    """Slopes (C,) and constant of the weighted regression; features are standardised for it."""
    weight = (weight / weight.sum())[:, None]
    mean = (weight * table).sum(axis=0)
    deviation = np.sqrt((weight * (table - mean) ** 2).sum(axis=0)) + 1e-3
    design = (table - mean) / deviation
    middle = float((weight[:, 0] * truth).sum())
    weighted = (design * weight).T
    slopes = np.linalg.solve(weighted @ design + RIDGE * np.eye(design.shape[1]), weighted @ (truth - middle))
    slopes = slopes / deviation
    return slopes, middle - float(mean @ slopes)


def _score(features: RegionFeatures, dense: Sequence[Field], slopes: Table, constant: float) -> Field:
    import torch
    from torch.nn.functional import interpolate

    total = np.full(features.image.shape, constant, np.float32)
    x, y, z = total.shape
    start = 0
    for each in features.maps:
        part = torch.from_numpy(slopes[start : start + each.shape[1]]).to(each)
        score = torch.einsum("bcxyz,c->bxyz", each, part)[None]
        if tuple(score.shape[-3:]) != features.padded:
            score = interpolate(score, size=features.padded, mode="trilinear", align_corners=False)
        total += score[0, 0, :x, :y, :z].numpy()
        start += each.shape[1]
    for field, slope in zip(dense, slopes[start:], strict=True):
        total += np.float32(slope) * field
    return total
