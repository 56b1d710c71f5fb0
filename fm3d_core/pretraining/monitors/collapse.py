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
    """When the alarm is raised. They lie far from what healthy runs show: an alarm means stop, not watch.

    Attributes:
        rank: least effective rank of whole crops and of patches; 1 is a line.
        entropy_of_mean: least entropy of the mean assignment over log K; less is a handful of prototypes for all.
        entropy: largest mean entropy over log K; more is the flat distribution for all.
        spread: least deviation of features from their mean over their length.
        grace: steps without an alarm for ``spread``: LayerScale starts at 1e-5, so class tokens of a fresh ViT are
            nearly equal.
    """

    rank: float = 1.5
    entropy_of_mean: float = 0.05
    entropy: float = 0.999
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
        limits = self.thresholds
        least = {"rank_": limits.rank, "relative_entropy_of_mean_": limits.entropy_of_mean}
        most = {"relative_entropy_": limits.entropy}
        if step >= limits.grace:
            least["spread_"] = limits.spread
        found = []
        for part in ("whole", "patches"):
            pairs = [(f"{name}{part}", limit, -1) for name, limit in least.items()]
            pairs += [(f"{name}{part}", limit, 1) for name, limit in most.items()]
            for name, limit, sign in pairs:
                value = figures.get(name)
                if value is not None and sign * value > sign * limit:
                    found.append(f"{name} {value:.3g} is {'above' if sign > 0 else 'below'} {limit:g}")
        return found
