"""What a way of measuring is known to get wrong is set right, and said."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fm3d_core.adaptation.expected_dice import ExpectedDice


def calibrated(measured: ExpectedDice | None, stage: str, volumes: int) -> ExpectedDice | None:
    """The figure with the bias removed that its way of measuring has on other sets (``calibration.yaml``).

    Args:
        measured: on held-out volumes, or slabs of the only one.
        stage: "linear_probe" or another.
        volumes: number of different images that were learned from.
    """
    if measured is None:
        return None
    known = _data()["linear_probe" if stage == "linear_probe" else "trained"]["slabs" if volumes == 1 else "volumes"]
    return measured.corrected(known["factor"], known.get("spread"))


@cache
def _data() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((Path(__file__).parent / "calibration.yaml").read_text(encoding="utf-8")))
