"""Whether probabilities are what they say: of all that is said with 80 %, four in five should be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """What was said with about the same probability.

    Attributes:
        low, high: of the probabilities.
        said: their mean.
        right: share that was right.
        count: how many.
    """

    low: float
    high: float
    said: float
    right: float
    count: int


def reliability(probabilities: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> list[ReliabilityBin]:
    """Bins of equal width that have anything in them.

    Args:
        probabilities: (n,) 0 to 1, of what was said.
        right: (n,) whether it was so.
        bins: from 0 to 1; the upper edge belongs to a bin (Guo et al. 2017).
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, bins - 1)
    return [
        ReliabilityBin(
            float(edges[place]),
            float(edges[place + 1]),
            float(probabilities[places == place].mean()),
            float(right[places == place].mean()),
            int((places == place).sum()),
        )
        for place in range(bins)
        if (places == place).any()
    ]


def expected_calibration_error(probabilities: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance between what is said and what is right, bins weighted by their count (Naeini et al. 2015).

    Args:
        probabilities, right, bins: as of :func:`reliability`.

    Returns:
        0 to 1, the less the better; NaN of nothing.
    """
    found = reliability(probabilities, right, bins)
    total = sum(each.count for each in found)
    return sum(each.count * abs(each.said - each.right) for each in found) / total if total else float("nan")
