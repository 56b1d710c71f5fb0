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

    Tried on short runs of ViTs with 3 and 6 blocks and 128 to 1024 prototypes. A run that learns (small_cpu_patch8):
    rank of whole crops 18 rising to 21, relative entropies 0.93 and 0.90, of the mean 0.99 and more. Without centering
    and with a teacher temperature of 0.02: entropy of the mean 0.0007 to 0.0000003, from step 20 on. Without centering
    and with 0.5: relative entropies above 0.995, rank falling from 4.5 to 1.8 in one network and staying at 9 in
    another. A run that stays at the beginning (too high a learning rate, too many prototypes for its batch) ends with
    relative entropies of 0.995 and 0.991 too, its loss that of flat distributions, log K a term, its rank high. So flat
    distributions with a low rank are a collapse; flat ones of crops and patches at once mean that nothing is learned,
    which is normal in the first steps of a long run only.

    Attributes:
        rank: least effective rank of whole crops and of patches; 1 is a line.
        entropy_of_mean: least entropy of the mean assignment over log K; less is a handful of prototypes for all.
        entropy: mean entropy over log K above which the distribution is flat for all; counts where the effective rank
            is below ``flat_rank``, too.
        spread: least deviation of features from their mean over their length.
        grace: steps without an alarm for ``spread`` and for flat distributions alone: LayerScale starts at 1e-5, so
            class tokens of a fresh ViT are nearly equal.
    """

    rank: float = 1.5
    entropy_of_mean: float = 0.05
    entropy: float = 0.99
    flat_rank: float = 2.5
    spread: float = 1e-3
    grace: int = 2000


class CollapseAlarm:
    """Calls the monitors it is given, adds to their figures and warns of a collapse.

    ``collapse`` is 1.0 or 0.0; so is ``flat``, where there is a teacher: it says nearly the same of everything.

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
        flat = self._flat(figures)
        told = {} if flat is None else {"flat": float(flat)}
        return figures | told | {"collapse": float(bool(signs))}

    def _flat(self, figures: dict[str, float]) -> bool | None:
        """Whether the teacher's distributions are flat for crops and patches; None without a teacher."""
        entropies = [figures.get(f"relative_entropy_{part}") for part in ("whole", "patches")]
        known = [entropy for entropy in entropies if entropy is not None]
        return None if not known else all(entropy > self.thresholds.entropy for entropy in known)

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
        if not found and step >= limits.grace and self._flat(figures):
            found.append(
                f"relative entropies of crops and patches are above {limits.entropy:g}: the teacher says one thing"
            )
        return found
