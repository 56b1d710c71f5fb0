"""How learning rate, weight decay, teacher momentum and temperature go over the steps of a run.

Loshchilov and Hutter 2017 (cosine), Goyal et al. 2017 (warm-up), Caron et al. 2021 (DINO: all five as here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fm3d_core.errors import SettingsError


@dataclass(frozen=True)
class CosineSchedule:
    """Zero while frozen, then a straight line up, then half a cosine wave to ``end``, which stays.

    Attributes:
        start: value at the beginning of the cosine.
        end: value at step ``steps`` and after.
        steps: length of the whole.
        warmup_steps: the line reaches ``start`` in the last of them.
        warmup_start: value at step 0 when there is a line.
        frozen_steps: steps at the beginning with value 0; they take the place of the line's first steps.

    Raises:
        ValueError: warm-up longer than the whole, or a negative length.
    """

    start: float
    end: float
    steps: int
    warmup_steps: int = 0
    warmup_start: float = 0.0
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.steps or self.frozen_steps < 0:
            raise ValueError(f"warm-up of {self.warmup_steps} steps does not fit {self.steps} steps")

    def at(self, step: int) -> float:
        """The value at ``step``, counted from 0."""
        if step < self.frozen_steps:
            return 0.0
        if step < self.warmup_steps:
            share = step / (self.warmup_steps - 1) if self.warmup_steps > 1 else 0.0
            return self.warmup_start + (self.start - self.warmup_start) * share
        if step >= self.steps:
            return self.end
        share = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class StepValues:
    """What one step is done with."""

    learning_rate: float
    last_layer_learning_rate: float
    weight_decay: float
    teacher_momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class ScheduleSettings:
    """Schedules of a whole run; lengths in "epochs" of ``epoch_steps`` steps. The defaults are 3DINO's pretraining.

    Attributes:
        base_learning_rate: at a batch of 1024 images; scaled by the square root of the batch over 1024.
        batch: images per step, of all processes.

    Raises:
        SettingsError: lengths that are negative or do not fit.
    """

    base_learning_rate: float = 2e-3
    batch: int = 512
    end_learning_rate: float = 1e-6
    epoch_steps: int = 1250
    epochs: int = 100
    warmup_epochs: int = 10
    frozen_last_layer_epochs: int = 1
    weight_decay: tuple[float, float] = (0.04, 0.4)
    teacher_momentum: tuple[float, float] = (0.992, 1.0)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    teacher_temperature_epochs: int = 30

    def __post_init__(self) -> None:
        lengths = (self.warmup_epochs, self.frozen_last_layer_epochs, self.teacher_temperature_epochs)
        if self.epochs < 1 or self.epoch_steps < 1 or self.batch < 1 or min(lengths) < 0:
            raise SettingsError("a schedule needs at least one step of one image", remedy="Raise epochs and batch")
        if min(self.base_learning_rate, self.end_learning_rate, *self.weight_decay) < 0:
            raise SettingsError("a learning rate or weight decay is below 0", remedy="Give 0 or more")
        if min(self.teacher_temperature) <= 0:
            raise SettingsError(
                f"teacher_temperature {list(self.teacher_temperature)} is not positive", remedy="3DINO has 0.04 to 0.07"
            )
        if not all(0 <= momentum <= 1 for momentum in self.teacher_momentum):
            raise SettingsError(
                f"teacher_momentum {list(self.teacher_momentum)} is no share", remedy="3DINO has 0.992 to 1"
            )
        if self.warmup_epochs > self.epochs:
            raise SettingsError(
                f"a warm-up of {self.warmup_epochs} epochs does not fit {self.epochs}", remedy="Shorten the warm-up"
            )

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.epochs * self.epoch_steps

    @property
    def learning_rate(self) -> float:
        """After the warm-up, for this batch."""
        return self.base_learning_rate * math.sqrt(self.batch / 1024)

    def at(self, step: int) -> StepValues:
        """The values of ``step``, counted from 0."""
        epoch, steps = self.epoch_steps, self.steps
        warmup = self.warmup_epochs * epoch
        rate = CosineSchedule(self.learning_rate, self.end_learning_rate, steps, warmup)
        frozen = self.frozen_last_layer_epochs * epoch
        last = CosineSchedule(self.learning_rate, self.end_learning_rate, steps, warmup, frozen_steps=frozen)
        cold, warm = self.teacher_temperature
        heating = self.teacher_temperature_epochs * epoch
        temperature = CosineSchedule(warm, warm, max(steps, heating), heating, warmup_start=cold)
        return StepValues(
            learning_rate=rate.at(step),
            last_layer_learning_rate=last.at(step),
            weight_decay=CosineSchedule(*self.weight_decay, steps).at(step),
            teacher_momentum=CosineSchedule(*self.teacher_momentum, steps).at(step),
            teacher_temperature=temperature.at(step),
        )


PRETRAINING = ScheduleSettings()
"""3DINO, 96^3 crops: 125,000 steps of 512 images."""

HIGH_RESOLUTION = ScheduleSettings(base_learning_rate=1e-3, batch=256, epoch_steps=125)
"""3DINO's second stage, 112^3 crops: 12,500 steps of 256 images."""
