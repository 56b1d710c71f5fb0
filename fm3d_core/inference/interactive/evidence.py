"""What prompts say of every voxel of a region: how like what was clicked, and how far by a path of the like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.features import RegionFeatures
from fm3d_core.inference.interactive.geodesic import FAR, Field, Mask, geodesic_distance

SEED_RADIUS = 2.0  # in the finest spacing: voxels around a click, as bright as it, that are seeds with it
SEED_TOLERANCE = 0.3  # of the image's range of 2
LOOK_RADIUS = 1.5  # in the finest spacing: over which a click's brightness is averaged
UNLIKE = 0.15  # difference of brightness at which a mm costs as much as 1 mm
CHEAPEST, DEAREST = 0.05, 20.0  # cost of a mm through what is alike, and through what is not at all
MANY = 64  # seeds whose brightness is compared one by one; of more, a fixed choice


@dataclass(frozen=True)
class Evidence:
    """Of one kind of prompt, positive or negative.

    Attributes:
        seeds: (X, Y, Z) voxels that are certain.
        unlike: (X, Y, Z) smallest difference in brightness to any prompt.
        distance: (X, Y, Z) geodesic, in cost times mm.
    """

    seeds: Mask
    unlike: Field
    distance: Field

    @classmethod
    def of(cls, voxels: npt.NDArray[np.int64], features: RegionFeatures) -> Evidence | None:
        """What prompts at ``voxels`` (n, 3) of the working grid say; None without any."""
        if not len(voxels):
            return None
        spacing, smooth = features.region.spacing, features.smoothed[0]
        seeds = np.zeros(smooth.shape, bool)
        values = np.empty(len(voxels), np.float32)
        for number, voxel in enumerate(voxels):
            box, near = _ball(voxel, smooth.shape, spacing, SEED_RADIUS * min(spacing))
            local = smooth[box]
            seeds[box] |= near & (np.abs(local - smooth[tuple(voxel)]) < SEED_TOLERANCE)
            look = _ball(voxel, smooth.shape, spacing, LOOK_RADIUS * min(spacing))
            values[number] = smooth[look[0]][look[1]].mean()
        seeds[tuple(voxels.T)] = True
        unlike = _smallest_difference(smooth, _chosen(values))
        cost = np.minimum((unlike / UNLIKE) ** 2, DEAREST) + np.float32(CHEAPEST)
        return cls(seeds, unlike, geodesic_distance(cost, seeds, spacing))

    def without(self, others: npt.NDArray[np.int64]) -> Evidence:
        """The same, but the voxels ``others`` (n, 3), which were prompts of the other kind, are no seeds."""
        seeds = self.seeds.copy()
        seeds[tuple(others.T)] = False
        return Evidence(seeds, self.unlike, self.distance)


def nothing(shape: tuple[int, ...]) -> Evidence:
    """Without any prompt: no seeds, far from everything."""
    return Evidence(np.zeros(shape, bool), np.full(shape, 2, np.float32), np.full(shape, FAR, np.float32))


def _ball(
    centre: npt.NDArray[np.int64], shape: tuple[int, ...], spacing: tuple[float, float, float], radius: float
) -> tuple[tuple[slice, ...], Mask]:
    """The box around a ball of ``radius`` mm, cut to the grid, and the ball in it."""
    reach = [int(radius / step + 1e-6) for step in spacing]
    box = tuple(
        slice(max(int(middle) - far, 0), min(int(middle) + far + 1, size))
        for middle, far, size in zip(centre, reach, shape, strict=True)
    )
    axes = np.ogrid[box]
    squares = sum(((axis - middle) * step) ** 2 for axis, middle, step in zip(axes, centre, spacing, strict=True))
    return box, np.asarray(squares <= radius**2 + 1e-6)


def _chosen(values: Field) -> Field:
    """At most ``MANY`` values that stand for all: of a long scribble, evenly spread quantiles."""
    return values if len(values) <= MANY else np.quantile(values, np.linspace(0, 1, MANY)).astype(np.float32)


def _smallest_difference(image: Field, values: Field) -> Field:
    """|image - value| of the nearest of ``values``."""
    ordered = np.unique(values)
    if len(ordered) == 1:
        return np.abs(image - ordered[0])
    after = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, image.ravel()).reshape(image.shape)
    result: Field = np.abs(image - ordered[after])
    return result
