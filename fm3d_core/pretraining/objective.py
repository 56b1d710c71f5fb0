"""What a pretraining run minimises, behind one interface: the engine knows no loss, an objective knows no device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class Place:
    """What one process of a run is.

    Attributes:
        rank, world_size: of this process.
        batch_size: samples per step and process (per accumulation round).
        workers: processes that prepare batches for this one; 0 prepares them in this process.
        seed: of the whole run, the same in all processes.
        accumulation: rounds of one step.
        pin_memory: whether batches should lie in memory that a GPU copies from while the processor goes on.
    """

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1
    workers: int = 0
    seed: int = 0
    accumulation: int = 1
    pin_memory: bool = False

    @property
    def step_batch(self) -> int:
        """Samples of one optimiser step, of all processes and rounds."""
        return self.batch_size * self.world_size * self.accumulation


class TrainingBatch(Protocol):
    """What a step gets.

    Attributes:
        names: of the volumes it was made of, for messages such as "the loss became infinite at ...".
        unreadable: one line for each stored volume that could not be read and was replaced.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def unreadable(self) -> tuple[str, ...]: ...

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrainingBatch:
        """The same on another device."""
        ...


class BatchLoader(Protocol):
    """Endless batches and the exact place to resume: after k batches taken, ``state_dict`` leads to batch k + 1.

    The state is the same on all ranks, plain (ints, strings, lists), and valid for another number of processes.
    """

    def __iter__(self) -> Iterator[TrainingBatch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Objective(nn.Module, ABC):
    """Networks, the loss, and what happens around an optimiser's step.

    The engine calls, for each step: ``before_step``, then ``forward`` and backward once per accumulation round, then
    clips each of ``clipped_modules``, steps the optimiser and calls ``after_step``. ``state_dict`` of the module holds
    everything that a resume needs beside the optimiser and the loader.
    """

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        """Weighted terms of the loss, each a scalar; the run minimises their sum."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with ``params``, ``lr`` and ``weight_decay``."""

    @abstractmethod
    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Set the schedules' values of ``step`` (from 0) in the optimiser's ``groups`` and in the objective.

        Returns:
            What should be logged of them, at least ``learning_rate``.
        """

    @abstractmethod
    def clipped_modules(self) -> Mapping[str, nn.Module]:
        """The modules whose gradient norms are clipped (each on its own) and logged."""

    def after_step(self, step: int) -> None:
        """What follows the optimiser's step ``step``, such as the teacher's update."""

    @abstractmethod
    def pretrained(self) -> nn.Module:
        """The backbone that the run is for; the teacher's where there is one. It is exported and monitored."""

    def also_exported(self) -> Mapping[str, nn.Module]:
        """Further modules that are written beside the backbone, as NAME.safetensors."""
        return {}

    def told(self) -> Mapping[str, Any]:
        """What the headers of the files say besides, as plain data."""
        return {}

    def flops_per_sample(self) -> float | None:
        """Floating point operations of one sample's forward and backward passes; None where not known."""
        return None


@dataclass(frozen=True)
class Built:
    """An objective with its data, as :func:`build` of an objective's module makes it.

    Attributes:
        objective: on the CPU, in training mode.
        loader: of this process.
        steps: of the whole run, as the schedule says.
        gradient_clip: largest norm of each clipped module's gradient.
        samples: volumes in one pass over the data; None where they are made up endlessly.
    """

    objective: Objective
    loader: BatchLoader
    steps: int
    gradient_clip: float = 3.0
    samples: int | None = None
