"""Geodesic distance in an image: the cheapest way from seeds to each voxel when steps cost what the image says.

Raster scans plane by plane (Toivanen 1996; Criminisi et al. 2008, GeoS): a plane learns from the one before it, all its
voxels at once. A few scans in all six directions come close to the exact distance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FAR = np.float32(1e6)  # of voxels that no seed reaches
ROUNDS = 2  # of six scans each
_SETTLED = 1e-3


def geodesic_distance(cost: Field, seeds: Mask, spacing: tuple[float, float, float], rounds: int = ROUNDS) -> Field:
    """Cost of the cheapest path from any seed, ``FAR`` if there is none.

    Args:
        cost: (X, Y, Z) of each voxel per mm, not negative; a step costs its length times the mean of its two ends.
        seeds: (X, Y, Z) where the distance is 0.
        spacing: mm.
        rounds: at most so many.
    """
    distance = np.where(seeds, np.float32(0), FAR).astype(np.float32)
    if not seeds.any():
        return distance
    for _ in range(rounds):
        before = distance.copy()
        for axis in range(3):
            _scan(distance, cost, axis, spacing)
        if float(np.abs(before - distance).max()) < _SETTLED:
            break
    return distance


def _scan(distance: Field, cost: Field, axis: int, spacing: tuple[float, float, float]) -> None:
    """Forth and back along one axis, in place: each voxel asks five neighbours in the plane before its own."""
    planes, costs = np.moveaxis(distance, axis, 0), np.moveaxis(cost, axis, 0)
    first, second = (spacing[other] for other in range(3) if other != axis)
    steps = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    halves = [math.sqrt(spacing[axis] ** 2 + (i * first) ** 2 + (j * second) ** 2) / 2 for i, j in steps]
    count = len(planes)
    for order, back in ((range(1, count), -1), (range(count - 2, -1, -1), 1)):
        for index in order:
            before, here = planes[index + back], planes[index]
            for (i, j), half in zip(steps, halves, strict=True):
                source, target = _shifted(i, j, before.shape), _shifted(-i, -j, before.shape)
                step = half * (costs[index + back][source] + costs[index][target])
                np.minimum(here[target], before[source] + step, out=here[target])


def _shifted(i: int, j: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    first, second = (slice(max(k, 0), size + min(k, 0)) for k, size in zip((i, j), shape, strict=True))
    return first, second
