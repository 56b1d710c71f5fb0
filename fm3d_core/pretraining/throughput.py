"""How fast a run is: samples per second, share of time waiting for data, model FLOPs utilisation, time left.

Chowdhery et al. 2022 (PaLM, appendix B): utilisation is the model's own operations per second over the hardware's peak.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PEAKS = Path(__file__).parent / "gpu_peaks.yaml"


class Throughput:
    """Measures the time between log lines.

    Args:
        samples_per_step: of all processes.
        flops_per_sample: None where not known.
        peak_flops: per second, of all devices together; None where not known.
    """

    def __init__(self, samples_per_step: int, flops_per_sample: float | None, peak_flops: float | None) -> None:
        self._samples, self._flops, self._peak = samples_per_step, flops_per_sample, peak_flops
        self._start = time.perf_counter()
        self._waited, self._steps, self._pace = 0.0, 0, 0.0

    def waited(self, seconds: float) -> None:
        """Time a step stood still for its data."""
        self._waited += seconds

    def step_done(self) -> None:
        """One more step."""
        self._steps += 1

    def pause(self, seconds: float) -> None:
        """Time that belongs to no step: a checkpoint, monitors."""
        self._start += seconds

    def figures(self, steps_left: int) -> dict[str, float]:
        """Since the last call: samples_per_second, data_wait, seconds_left, and model_flops_utilisation if known."""
        now = time.perf_counter()
        elapsed, steps = max(now - self._start, 1e-9), max(self._steps, 1)
        pace = elapsed / steps
        # smoothed for the time left, because single windows vary
        self._pace = pace if not self._pace else 0.7 * self._pace + 0.3 * pace
        speed = self._samples / pace
        figures = {
            "samples_per_second": speed,
            "data_wait": min(self._waited / elapsed, 1.0),
            "seconds_left": self._pace * steps_left,
        }
        if self._flops and self._peak:
            figures["model_flops_utilisation"] = speed * self._flops / self._peak
        self._start, self._waited, self._steps = now, 0.0, 0
        return figures


def peak_flops(device_name: str, precision: str) -> float | None:
    """A GPU's published dense peak in operations per second; None for one that the table does not know, and for CPUs.

    A CPU's peak depends on its clock under load and on who shares it, so none is made up.

    Args:
        device_name: as CUDA tells it.
        precision: of :class:`~fm3d_core.pretraining.settings.RunSettings`.
    """
    for row in _table():
        if row["name"].lower() in device_name.lower():
            kind = "tf32" if precision == "32-true" else "half"
            return float(row[kind]) * 1e12 if row.get(kind) else None
    return None


@cache
def _table() -> list[dict[str, Any]]:
    import yaml

    return list(yaml.safe_load(_PEAKS.read_text(encoding="utf-8")))


def memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the GPU's allocator, or of this process."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
