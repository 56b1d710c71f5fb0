"""Small parts of a structure apart from the rest of it, which a network that saw few volumes strews about.

A structure that is one connected part in every labelled volume (:mod:`fm3d_core.adaptation.connected`) is one in the
next patient too. What was taken for a part of it elsewhere becomes what it was second best, mostly background, but
also the other kidney.

On volumes that no figure is measured on (benchmarks/islands.py: three volumes, a minute, two draws; Dice and HD95,
without and with): 13 organs in CT 0.412 and 122 mm, 0.425 and 56 mm; four organs in MR 0.769 and 42 mm, 0.776 and
28 mm; hearts 0.537 and 52 mm, 0.557 and 28 mm; hippocampus and left atrium have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

SMALL = 0.5  # of the largest part's voxels: smaller parts are islands
ROUNDS = 3  # what takes an island's place may be one itself
NEVER = -1e4  # a score that wins nowhere, and stays a number where scores are interpolated


def remove_islands(scores: torch.Tensor, rows: Mapping[str, int]) -> dict[str, int]:
    """Change ``scores`` in place so that the islands of structures go to the class with the next best score.

    Args:
        scores: (classes, X, Y, Z) of classes that exclude each other, logits or log-probabilities.
        rows: structures that are one connected part -> their row.

    Returns:
        Structure -> voxels of it that were taken away; those of which something was.
    """
    import torch
    from scipy import ndimage

    removed: dict[str, int] = {}
    names = dict(rows)  # those that may have islands still
    for _ in range(ROUNDS if rows else 0):
        decided = scores.argmax(0).to(torch.uint8).cpu().numpy()
        boxes = ndimage.find_objects(decided.astype(np.int32), len(scores) - 1)
        gained: set[int] = set()
        for name, row in names.items():
            box = boxes[row - 1]
            if box is None or (islands := _islands(decided[box] == row)) is None:
                continue
            where = torch.from_numpy(islands).to(scores.device)
            with torch.inference_mode():  # scores of a single view are inference tensors
                part = scores[(slice(None), *box)]
                part[row].masked_fill_(where, NEVER)
                gained |= set(part[:, where].argmax(0).tolist())
            removed[name] = removed.get(name, 0) + int(islands.sum())
        names = {name: row for name, row in rows.items() if row in gained}
        if not names:
            break
    return removed


def _islands(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    """Which voxels of a mask (X, Y, Z) are of small parts of it; None where there are none."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = sizes[1:].max()  # what is not of the structure is no island
    islands: npt.NDArray[np.bool_] = (sizes < SMALL * sizes[0])[parts]
    return islands if islands.any() else None
