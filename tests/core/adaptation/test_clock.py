"""A budget in core-seconds is not spent by waiting."""

from __future__ import annotations

import time

import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings
from fm3d_core.adaptation.batches import Batch
from fm3d_core.adaptation.trainer import Budget, TrainingRecord, optimise
from fm3d_core.clocks import ClockName
from fm3d_core.errors import SettingsError
from fm3d_core.models.backbone import Size
from fm3d_core.progress import ignore_progress, never_stop


class _Source:
    """One weight; each step computes for 10 ms and then waits for 30 ms."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.ones(1))

    def draw(self) -> Batch:
        start = time.process_time()
        while time.process_time() - start < 0.01:
            pass
        time.sleep(0.03)
        return Batch((), torch.zeros(1), ("case",))

    def scores(self, batch: Batch) -> torch.Tensor:
        return self.weight * 2

    def features(self, batch: Batch) -> tuple[list[torch.Tensor], Size]:
        raise NotImplementedError


def _train(clock: ClockName) -> tuple[TrainingRecord, float]:
    source, start = _Source(), time.monotonic()
    record = optimise(
        source,
        [source.weight],
        lambda scores, target, annotated: scores.sum(),
        Budget(0.15, clock=clock),
        learning_rate=1e-3,
        device=torch.device("cpu"),
        progress=ignore_progress,
        should_stop=never_stop,
    )
    return record, time.monotonic() - start


def test_core_seconds_are_not_spent_by_waiting() -> None:
    cpu, wall_of_cpu = _train("cpu")
    wall, _ = _train("wall")
    assert 0.15 <= cpu.seconds < 0.3 and wall_of_cpu > 0.3
    assert cpu.steps > wall.steps


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(SettingsError, match="clock"):
        FinetuneSettings(clock="sun")  # type: ignore[arg-type]
