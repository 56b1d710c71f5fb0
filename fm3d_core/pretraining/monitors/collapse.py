"""The alarm: features that no longer tell crops or patches apart, long before a benchmark would show it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fm3d_core.pretraining.monitors import Monitor

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Objective

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thresholds:
    """When the alarm is raised: it means stop, not watch.

    Tried on runs of small_cpu's kind (ViT of 6 blocks, 512 prototypes, 174 hippocampus volumes). Healthy, steps 50 to
    350: rank of whole crops 3.5 rising to 8.4, relative entropy 0.988 to 0.9992, of the mean the same. Without
    centering and with a teacher temperature of 0.02, steps 40 to 160: entropy of the mean 0.0007 to 0.0001, rank 4.2
    falling to 1.9. Without centering and with 0.5, the same steps: relative entropy 0.979 to 0.997, rank 4.5 falling
    to 1.8. So a nearly flat distribution is no sign by itself; together with a low rank it is.

    Attributes:
        rank: least effective rank of whole crops and of patches; 1 is a line.
        entropy_of_mean: least entropy of the mean assignment over log K; less is a handful of prototypes for all.
        entropy: mean entropy over log K above which the distribution is flat for all; counts where the effective rank
            is below ``flat_rank``, too.
        spread: least deviation of features from their mean over their length.
        grace: steps without an alarm for ``spread``: LayerScale starts at 1e-5, so class tokens of a fresh ViT are
            nearly equal.
    """

    rank: float = 1.5
    entropy_of_mean: float = 0.05
    entropy: float = 0.99
    flat_rank: float = 2.5
    spread: float = 1e-3
    grace: int = 2000


class CollapseAlarm:
    """Calls the monitors it is given, adds ``collapse`` (1.0 or 0.0) to their figures and warns of a collapse.

    Args:
        monitors: such as effective rank and teacher entropy.
        thresholds: of their figures.
    """

    def __init__(self, monitors: Sequence[Monitor], thresholds: Thresholds | None = None) -> None:
        self.monitors, self.thresholds = list(monitors), thresholds or Thresholds()

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """The figures of all and the alarm."""
        figures: dict[str, float] = {}
        for monitor in self.monitors:
            figures |= monitor(objective, step, folder)
        signs = self.signs(figures, step)
        if signs:
            logger.warning("step %d: the features collapse: %s", step, "; ".join(signs))
        return figures | {"collapse": float(bool(signs))}

    def signs(self, figures: dict[str, float], step: int) -> list[str]:
        """What is out of bounds, in words."""
        limits, found = self.thresholds, []
        least = {"rank_": limits.rank, "relative_entropy_of_mean_": limits.entropy_of_mean}
        if step >= limits.grace:
            least["spread_"] = limits.spread
        for part in ("whole", "patches"):
            for name, limit in least.items():
                value = figures.get(f"{name}{part}")
                if value is not None and value < limit:
                    found.append(f"{name}{part} {value:.3g} is below {limit:g}")
            entropy, rank = figures.get(f"relative_entropy_{part}", 0.0), figures.get(f"rank_{part}", 1.0)
            if entropy > limits.entropy and rank < limits.flat_rank:
                found.append(
                    f"relative_entropy_{part} {entropy:.3g} is above {limits.entropy:g} and rank_{part} {rank:.3g} "
                    f"below {limits.flat_rank:g}"
                )
        return found
