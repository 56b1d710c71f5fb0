"""What a way of measuring is known to get wrong is set right, and said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fm3d_core.adaptation.expected_dice import ExpectedDice

# With 18 steps instead of 72, three hearts held out came to Dice 0.40 where the linear probe that training begins with
# has 0.64 (benchmarks/expected_dice.py).
STEPS = 60


def enough_to_measure(share: float, training: Mapping[str, float], seconds: float) -> float:
    """Share of a stage's seconds for each training that measures it: so much that it takes :data:`STEPS` steps.

    Args:
        share: what the preset gives, 0 to 1; the least.
        training: of the stage's card: the "steps" it took in its "seconds".
        seconds: budget of the stage.

    Returns:
        At most 1, which is a training as long as the stage itself.
    """
    if not training.get("steps") or not seconds:
        return share
    return min(max(share, STEPS * training["seconds"] / training["steps"] / seconds), 1.0)


def calibrated(measured: ExpectedDice | None, stage: str, volumes: int, part: float = 1.0) -> ExpectedDice | None:
    """The figure with the bias removed that its way of measuring has on other sets (``calibration.yaml``).

    Args:
        measured: on held-out volumes, or slabs of the only one.
        stage: "linear_probe" or another.
        volumes: number of different images that were learned from.
        part: of the stage's own steps that each training took that measured it, 0 to 1.
    """
    if measured is None:
        return None
    known = _data()["linear_probe" if stage == "linear_probe" else "trained"]["slabs" if volumes == 1 else "volumes"]
    halvings = max(-math.log2(part), 0.0) if part > 0 else 0.0
    factor = known["factor"] * known.get("per_halving", 1.0) ** halvings
    return measured.corrected(factor, known.get("spread"), known.get("least_spread", 0.0))


@cache
def _data() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((Path(__file__).parent / "calibration.yaml").read_text(encoding="utf-8")))
