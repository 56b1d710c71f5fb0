"""When monitors look at a run, and what becomes of what they see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fm3d_core.errors import FM3DError

if TYPE_CHECKING:
    from fm3d_core.pretraining.monitors import Monitor
    from fm3d_core.pretraining.objective import Objective, Place
    from fm3d_core.pretraining.settings import PretrainSettings

logger = logging.getLogger(__name__)
MONITORS_FOLDER = "monitors"


class Watch:
    """Monitors of one run.

    Args:
        monitors: to be called.
        folder: for their pictures.
    """

    def __init__(self, monitors: Sequence[Monitor], folder: Path) -> None:
        self.monitors, self.folder = list(monitors), folder

    def __call__(self, objective: Objective, step: int) -> dict[str, float]:
        """Their figures as ``monitor/NAME``. One that fails is a warning: a long run is worth more than a picture."""
        import torch

        figures: dict[str, float] = {}
        objective.eval()
        with torch.no_grad():
            for monitor in self.monitors:
                try:
                    found = monitor(objective, step, self.folder)
                    figures |= {f"monitor/{name}": value for name, value in found.items()}
                except FM3DError as error:
                    logger.warning("a monitor failed: %s", error)
        objective.train()
        return figures


def watch_of(settings: PretrainSettings, data: Path | None, out: Path, place: Place) -> Watch | None:
    """The monitors of a run, in its first process; None where there are none."""
    if not settings.run.monitor_every or place.rank > 0:
        return None
    if settings.run.strategy == "fsdp" and place.world_size > 1:
        logger.warning("monitors need the whole model in one process and are left out with FSDP")
        return None
    from fm3d_core.pretraining.monitors import monitors_for

    return Watch(monitors_for(settings.objective, settings.settings, data), out / MONITORS_FOLDER)
