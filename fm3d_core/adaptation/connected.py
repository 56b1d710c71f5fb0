"""Which structures are one connected part in every labelled volume, and so in a further one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    import numpy.typing as npt

    from fm3d_core.adaptation.cases import LoadedCase
    from fm3d_core.tasks import DenseTask

SHARE = 0.95  # of a structure's voxels in its largest part; what is left are slips of the pen


def connected_structures(cases: Sequence[LoadedCase], task: DenseTask) -> tuple[str, ...]:
    """Structures of which every labelled volume that has them, annotated as a whole, shows one connected part.

    Those that come in any number, such as lesions, are never among them, by their names (``countable.yaml``): one
    patient's single metastasis says nothing of the next patient's. None of regions that overlap.
    """
    if not task.exclusive:
        return ()
    whole = [case for case in cases if not (case.label.array == IGNORED).any()]
    shares: dict[str, list[float]] = {name: [] for name in task.labels if not countable(name)}
    for case in whole:
        found = largest_parts(case.label.array, task.classes)
        for name in shares:
            value = task.values[name]
            if value in found and (case.annotated is None or value in case.annotated):
                shares[name].append(found[value])
    return tuple(name for name, seen in shares.items() if seen and min(seen) >= SHARE)


def largest_parts(labels: npt.NDArray[np.generic], classes: int) -> dict[int, float]:
    """Of each class but 0 that is in a label map (X, Y, Z), the share of its voxels in its largest connected part."""
    from scipy import ndimage

    found: dict[int, float] = {}
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32), classes - 1), 1):
        if box is not None:
            parts, _ = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
            sizes = np.bincount(parts.ravel())[1:]
            found[value] = float(sizes.max() / sizes.sum())
    return found


def countable(name: str) -> bool:
    """Whether a structure of this name comes in any number."""
    return any(word in name.lower() for word in _words())


@cache
def _words() -> tuple[str, ...]:
    import yaml

    return tuple(yaml.safe_load((Path(__file__).parent / "countable.yaml").read_text(encoding="utf-8")))
