"""How many directions features use: the effective rank. Roy and Vetterli 2007, "The effective rank"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fm3d_core.pretraining.monitors.fixed_crops import FixedCrops

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Objective

_ROWS = 2048  # patches that are looked at
_EQUAL = 1e-6  # spread below which rows are equal up to float32's rounding


def effective_rank(rows: torch.Tensor) -> float:
    """exp of the entropy of the singular values of the centred ``rows`` (n, C), scaled to sum to one.

    From 1 (all rows lie on one line) to min(n - 1, C); rows that are equal up to rounding give 1.
    """
    centred = rows.double() - rows.double().mean(dim=0)
    if spread(rows) < _EQUAL:
        return 1.0
    values = torch.linalg.svdvals(centred)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spread(rows: torch.Tensor) -> float:
    """Length of the deviations from the mean row over the length of the rows: 0 for equal rows, about 1 at most."""
    rows = rows.double()
    return float((rows - rows.mean(dim=0)).norm() / rows.norm().clamp(min=1e-300))


class EffectiveRank:
    """Effective rank and spread of the whole crops' and of the patches' features.

    Figures: ``rank_whole``, ``rank_patches``, ``spread_whole``, ``spread_patches``.
    """

    def __init__(self, crops: FixedCrops) -> None:
        self.crops = crops

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """The figures of this step."""
        found = self.crops.features(objective.pretrained(), step)
        patches = found.patches.flatten(0, 1)
        patches = patches[:: -(-len(patches) // _ROWS)]
        return {
            "rank_whole": effective_rank(found.whole),
            "rank_patches": effective_rank(patches),
            "spread_whole": spread(found.whole),
            "spread_patches": spread(patches),
        }
