"""One region: from what prompts say to a probability of the structure at each voxel of the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import Stopped
from fm3d_core.inference.interactive.classifier import Lesson, learn_and_classify
from fm3d_core.inference.interactive.evidence import Evidence, nothing
from fm3d_core.inference.interactive.features import RegionFeatures
from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.progress import ShouldStop

ROUNDS = 2  # of learning from what was found before
STRENGTH = 0.3  # of the classifier against the image's edges, in the random walker
REACH = 1.5  # how far a click changes a given segmentation at half strength, in its own distance to the border
REACHES = np.array([4.0, 6.0, 9.0, 13.0])  # of which the nearest is taken, in the finest spacing
SURE = 0.9  # probability from which the classifier changes it farther away, next to a click


@dataclass(frozen=True)
class Prompted:
    """The prompts of a region on its working grid.

    Attributes:
        positive, negative: (n, 3) voxels.
        allowed: (X, Y, Z) where the structure may be; None: everywhere.
        given: (X, Y, Z) from 0 to 1, a segmentation to correct; None without one.
        prior: (X, Y, Z) probability that a trained network gives; None without one.
        drawn: (X, Y, Z) probability that the prompt decoder gives; None where there is a segmentation or a prior.
    """

    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    allowed: Mask | None = None
    given: Field | None = None
    prior: Field | None = None
    drawn: Field | None = None


def probability(features: RegionFeatures, prompted: Prompted, should_stop: ShouldStop) -> Field:
    """Probability (X, Y, Z) of the structure; 1 at positive seeds, 0 at negative ones and outside of what is allowed.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    _check(should_stop)
    positive, negative = (Evidence.of(voxels, features) for voxels in (prompted.positive, prompted.negative))
    inside = positive or nothing(features.image.shape)
    outside = negative or nothing(features.image.shape)
    inside = inside.without(prompted.negative)
    outside = outside.without(np.argwhere(inside.seeds))
    allowed = np.ones(features.image.shape, bool) if prompted.allowed is None else prompted.allowed | inside.seeds
    _check(should_stop)
    structure = _first_guess(features, prompted, inside, outside) & allowed
    certain = inside.seeds | outside.seeds | ~allowed
    further, before = _further(features, inside, outside), prompted.prior if prompted.drawn is None else prompted.drawn
    if before is not None:
        further.append(before)
    for _ in range(ROUNDS):
        _check(should_stop)
        lesson = Lesson.of(
            structure, ~structure, inside.seeds, outside.seeds, (len(prompted.positive), len(prompted.negative))
        )
        classified = learn_and_classify(features, further, lesson)
        if before is not None:
            classified = (classified + before) / 2
        if prompted.given is not None:
            classified = _local(features, prompted, classified)
        result = features.walker.solve(
            classified, STRENGTH, certain, inside.seeds.astype(np.float32), should_stop=should_stop
        )
        structure = _connected(result > 0.5, inside.seeds, prompted)
    return np.where(structure, result, np.minimum(result, 0.49)).astype(np.float32)


def _first_guess(features: RegionFeatures, prompted: Prompted, inside: Evidence, outside: Evidence) -> Mask:
    """What was drawn; else what there is already, changed where it is nearer to the prompts than the best level."""
    if prompted.drawn is not None:
        return _connected(prompted.drawn > 0.5, inside.seeds, prompted) | inside.seeds
    starting = prompted.given if prompted.given is not None else prompted.prior
    assert starting is not None
    if not inside.seeds.any():
        return (starting > 0.5) & (outside.distance > 1.0)
    level = best_level(inside.distance, features)
    near, far = inside.distance < outside.distance, outside.distance < inside.distance
    return ((starting > 0.5) & ~(far & (outside.distance < level))) | (near & (inside.distance < level))


def best_level(distance: Field, features: RegionFeatures) -> float:
    """The distance at which a region that grows from the seeds has the sharpest border: the greatest mean gradient.

    As in region growing by peripheral contrast (Hojjatoleslami and Kittler 1998).
    """
    gradient = np.zeros_like(distance)
    finest = min(features.region.spacing)
    for axis, step in enumerate(features.region.spacing):
        if distance.shape[axis] > 1:
            gradient += (np.gradient(features.smoothed[0], axis=axis) * (finest / step)) ** 2
    order = np.argsort(distance, axis=None)
    total = np.concatenate([[0.0], np.cumsum(np.sqrt(gradient).ravel()[order], dtype=np.float64)])
    count = len(order)
    best, place = -1.0, count // 2
    for size in np.geomspace(min(60, count), max(count // 2, 1), 50).astype(int):
        width = max(int(3 * size ** (2 / 3)), 20)  # voxels of its surface
        low, high = max(size - width, 0), min(size + width, count)
        contrast = (total[high] - total[low]) / (high - low)
        if contrast > best:
            best, place = contrast, size
    return float(distance.ravel()[order[min(place, count - 1)]]) + 1e-6


def _further(features: RegionFeatures, inside: Evidence, outside: Evidence) -> list[Field]:
    """Maps for the classifier that say where a voxel is from the prompts."""
    finest = min(features.region.spacing)
    maps = []
    if inside.seeds.any():
        level = best_level(inside.distance, features)
        maps += [inside.unlike, np.log(inside.distance / finest + 0.1), np.minimum(inside.distance / level, 3)]
    if outside.seeds.any():
        maps += [outside.unlike, np.log(outside.distance / finest + 0.1)]
    if inside.seeds.any() and outside.seeds.any():
        maps.append(inside.distance / (inside.distance + outside.distance + 1e-3))
    return [each.astype(np.float32) for each in maps]


def _local(features: RegionFeatures, prompted: Prompted, classified: Field) -> Field:
    """A given segmentation, changed near the clicks; farther away only where the classifier is sure."""
    assert prompted.given is not None
    near = _nearness(prompted, features.region.spacing)
    sure = np.maximum(classified, 1 - classified) > SURE
    weight = np.where(sure, np.sqrt(near), near)
    firm = 0.02 + 0.96 * prompted.given
    result: Field = (weight * classified + (1 - weight) * firm).astype(np.float32)
    return result


def _nearness(prompted: Prompted, spacing: tuple[float, float, float]) -> Field:
    """1 at a click, a half at its reach: people click into the middle of what is wrong, so it ends about as far beyond
    the click as the border of the given segmentation lies before it."""
    from scipy import ndimage

    assert prompted.given is not None
    given, finest = prompted.given > 0.5, min(spacing)
    unit = [step / finest for step in spacing]
    clicks = np.concatenate([prompted.positive, prompted.negative])
    near = np.zeros(given.shape, np.float32)
    if not len(clicks):
        return near
    sides = [ndimage.distance_transform_edt(side, sampling=unit) for side in (given, ~given) if not side.all()]
    depth = np.maximum.reduce(sides)[tuple(clicks.T)]
    reach = REACHES[np.abs(np.log(REACHES)[:, None] - np.log(REACH * depth + 1e-3)).argmin(axis=0)]
    for each in np.unique(reach):
        elsewhere = np.ones(given.shape, bool)
        elsewhere[tuple(clicks[reach == each].T)] = False
        distance = ndimage.distance_transform_edt(elsewhere, sampling=unit)
        np.maximum(near, np.exp(-((distance / each) ** 2) * np.log(2)), out=near, casting="same_kind")
    return near


def _connected(mask: Mask, seeds: Mask, prompted: Prompted) -> Mask:
    """The parts that hold a positive prompt or some of a prior; all parts of a given segmentation."""
    from scipy import ndimage

    if prompted.given is not None or not seeds.any():
        return mask
    parts, _ = ndimage.label(mask)
    known = seeds if prompted.prior is None else seeds | (prompted.prior > 0.5)
    keep = np.unique(parts[known])
    result: Mask = np.isin(parts, keep[keep > 0])
    return result


def _check(should_stop: ShouldStop) -> None:
    if should_stop():
        raise Stopped("Segmentation")
