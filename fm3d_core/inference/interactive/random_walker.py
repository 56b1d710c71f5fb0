"""The random walker with priors: a smooth probability that follows a classifier and changes where the image has edges.

Grady 2006 (random walks for image segmentation) and Grady 2005 (random walks with prior models), equation 12 there:
``(L + strength) x = strength * prior`` with the values of seeds given, solved by conjugate gradients.
"""

from __future__ import annotations

import numpy as np

from fm3d_core.errors import Stopped
from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.progress import ShouldStop, never_stop

_SMALLEST = 1e-3  # weight of the strongest edge: none is absolute
_TOLERANCE = 1e-2  # of the residual, relative to its first
_STEPS = 100


class RandomWalker:
    """The graph of one image, made once and solved for any number of priors.

    Args:
        image: (X, Y, Z), its edges are where the walker hesitates.
        spacing: mm.
        sensitivity: Grady's beta, for squared differences of ``image``.
    """

    def __init__(self, image: Field, spacing: tuple[float, float, float], sensitivity: float) -> None:
        finest = min(spacing)
        self._weights: list[Field] = []
        self._degree = np.zeros(image.shape, np.float32)
        for axis in range(3):
            difference = np.diff(image, axis=axis)
            weight = np.exp(-sensitivity * difference * difference) + _SMALLEST
            weight = (weight * (finest / spacing[axis]) ** 2).astype(np.float32)
            lower, upper = _ends(axis)
            self._degree[lower] += weight
            self._degree[upper] += weight
            self._weights.append(weight)

    def solve(
        self, prior: Field, strength: float, seeds: Mask, values: Field, *, should_stop: ShouldStop = never_stop
    ) -> Field:
        """Probability (X, Y, Z) of the structure.

        Args:
            prior: (X, Y, Z) from 0 to 1.
            strength: of the prior against the image's edges, above 0.
            seeds: (X, Y, Z) where ``values`` hold exactly.
            values: (X, Y, Z).

        Raises:
            Stopped: ``should_stop`` said so.
        """
        free = (~seeds).astype(np.float32)
        diagonal = self._degree + np.float32(strength)
        result = np.where(seeds, values, prior).astype(np.float32)
        residual = (strength * prior - diagonal * result + self._neighbours(result)) * free
        direction = residual / diagonal
        product = float((residual * direction).sum())
        enough = _TOLERANCE**2 * product
        for _ in range(_STEPS):
            if product <= max(enough, 1e-12):
                break
            if should_stop():
                raise Stopped("Segmentation")
            image = (diagonal * direction - self._neighbours(direction)) * free
            step = np.float32(product / float((direction * image).sum()))
            result += step * direction
            residual -= step * image
            scaled = residual / diagonal
            before, product = product, float((residual * scaled).sum())
            direction = scaled + np.float32(product / before) * direction
        return result

    def _neighbours(self, values: Field) -> Field:
        total = np.zeros_like(values)
        for axis, weight in enumerate(self._weights):
            lower, upper = _ends(axis)
            total[upper] += weight * values[lower]
            total[lower] += weight * values[upper]
        return total


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last and all but the first along an axis."""
    lower, upper = [slice(None)] * 3, [slice(None)] * 3
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)
