"""How large each structure is in the labelled volumes: what a new case's segmentation is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    from fm3d_core.adaptation.cases import LoadedCase
    from fm3d_core.tasks import DenseTask

MARGIN = 0.3  # relative deviation of a size that is still ordinary: FSEFT's (Silva-Rodriguez et al. 2023)
_BELIEVED = 3  # volumes that the spread believed beforehand weighs as much as
_SPREAD = 0.3  # standard deviation of the logarithm of a size, believed beforehand


@dataclass(frozen=True)
class SizePrior:
    """The sizes of one structure in the labelled volumes that have it.

    Attributes:
        mean: ml, the geometric mean; of five volumes and more without those beyond one standard deviation from the
            median, as in FSEFT's transductive inference.
        smallest, largest: ml.
        spread: standard deviation of the logarithm of the size of a further volume. A few volumes say little of it, so
            it is drawn towards 0.3: the mean of an inverse gamma posterior, and 1 + 1/n for the mean's own error.
        volumes: how many have the structure.
        absent: how many were looked through and do not have it.
    """

    mean: float
    smallest: float
    largest: float
    spread: float
    volumes: int
    absent: int

    def deviation(self, size: float) -> float:
        """By how many spreads ``size`` (ml) lies above or below the mean, on a logarithmic scale."""
        return math.log(max(size, 1e-6) / self.mean) / self.spread

    def relative(self, size: float) -> float:
        """``size`` (ml) relative to the mean: 0.2 is a fifth larger."""
        return size / self.mean - 1

    def ordinary(self, size: float) -> bool:
        """Whether ``size`` (ml) is within the labelled volumes' own sizes, each give or take :data:`MARGIN`."""
        return self.smallest * (1 - MARGIN) <= size <= self.largest * (1 + MARGIN)


def size_prior(sizes: Sequence[float]) -> SizePrior | None:
    """Sum up the sizes (ml) of a structure in labelled volumes, 0 where it is absent; None if it is in none."""
    import numpy as np

    present = np.array([size for size in sizes if size > 0])
    if not present.size:
        return None
    usual = present
    if present.size >= 5:
        usual = present[np.abs(present - np.median(present)) <= present.std()]
    usual = usual if usual.size else present
    logarithms = np.log(present)
    squares = _BELIEVED * _SPREAD**2 + float(((logarithms - logarithms.mean()) ** 2).sum())
    spread = math.sqrt(squares / (_BELIEVED + present.size - 1) * (1 + 1 / present.size))
    mean = float(np.exp(np.log(usual).mean()))
    absent = len(sizes) - int(present.size)
    return SizePrior(mean, float(present.min()), float(present.max()), spread, int(present.size), absent)


def size_priors(sizes: Mapping[str, Sequence[float]]) -> dict[str, SizePrior]:
    """Of each structure whose size is known, see :attr:`fm3d_core.adaptation.AdapterCard.sizes`."""
    found = {name: size_prior(values) for name, values in sizes.items()}
    return {name: prior for name, prior in found.items() if prior is not None}


def measured_sizes(cases: Sequence[LoadedCase], task: DenseTask) -> dict[str, tuple[float, ...]]:
    """Structure -> its size in ml in each volume where all of it was annotated; 0 where it is absent.

    None of regions that overlap.
    """
    import numpy as np

    if not task.exclusive:
        return {}

    sizes: dict[str, list[float]] = {name: [] for name in task.labels}
    for case in cases:
        if (case.label.array == IGNORED).any():
            continue  # of a volume annotated in part, no size is known
        voxel = float(np.prod(case.label.spacing)) / 1000
        counts = np.bincount(case.label.array.ravel(), minlength=task.classes)
        for name, value in task.values.items():
            if case.annotated is None or value in case.annotated:
                sizes[name].append(round(int(counts[value]) * voxel, 4))
    return {name: tuple(values) for name, values in sizes.items() if values}
