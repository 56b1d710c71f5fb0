"""What loaders of all objectives have in common: batches without end, exact resume, substitutes for damaged volumes."""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from fm3d_core.errors import VolumeError
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.signals import STOP_SIGNALS

logger = logging.getLogger(__name__)

_SUBSTITUTES = 20  # volumes tried in place of unreadable ones before the data as a whole counts as damaged


class Drawn(Protocol):
    """A sample's name: where its random numbers come from."""

    def stream(self, purpose: str) -> int: ...


DrawnT = TypeVar("DrawnT", bound=Drawn)
KeyT = TypeVar("KeyT")
SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")


class ResumableSampler(Protocol[KeyT]):
    """Batches of a data set's keys, such as draws, and a count of what the training has consumed."""

    def __iter__(self) -> Iterator[list[KeyT]]: ...

    def consumed(self, batches: int = 1) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SubstitutingDataset(Dataset[SampleT], ABC, Generic[DrawnT, SampleT]):
    """Makes the sample of a draw; a volume that cannot be read is replaced, the same way in every repetition.

    Attributes:
        root: of the stored volumes, for messages.
    """

    root: Path

    @abstractmethod
    def first_choice(self, draw: DrawnT) -> int:
        """The volume that the draw names."""

    @abstractmethod
    def substitute(self, draw: DrawnT, generator: torch.Generator) -> int:
        """Another volume in its place."""

    @abstractmethod
    def sample(self, index: int, draw: DrawnT, generator: torch.Generator, unreadable: tuple[str, ...]) -> SampleT:
        """The sample of a volume for a draw; VolumeError when it cannot be read."""

    def __getitem__(self, draw: DrawnT) -> SampleT:
        """The sample of a draw.

        Raises:
            VolumeError: neither its volume nor any substitute can be read.
        """
        unreadable: list[str] = []
        for attempt in range(_SUBSTITUTES):
            generator = torch.Generator().manual_seed(draw.stream(f"crops {attempt}"))
            index = self.substitute(draw, generator) if attempt else self.first_choice(draw)
            try:
                return self.sample(index, draw, generator, tuple(unreadable))
            except VolumeError as error:
                last = error
                logger.warning("%s", error)
                unreadable.append(str(error))
        raise VolumeError(
            f"{_SUBSTITUTES} stored volumes in a row cannot be read",
            path=self.root,
            remedy="Check the disk; then prepare them again (fm3d data cache makes a crop store)",
        ) from last


def leave_signals_alone(worker: int) -> None:
    """For each worker process: a signal to the whole group, as Ctrl-C, timeout and SLURM send it, is not for it.

    The training answers it, and still needs batches to finish its step. Workers end with the training: they look after
    their parent every few seconds (PyTorch's watchdog).
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class EndlessLoader(Generic[KeyT, SampleT, BatchT]):
    """Endless batches, and the exact place to resume: after k batches taken, ``state_dict`` leads to batch k + 1.

    Args:
        dataset: by the sampler's keys.
        sampler: the order.
        collate: makes a batch of samples.
        place: how many worker processes there are, and whether batches go into pinned memory for a GPU.
        prefetch: batches each worker prepares ahead.
    """

    def __init__(
        self,
        dataset: Dataset[SampleT],
        sampler: ResumableSampler[KeyT],
        collate: Callable[[Sequence[SampleT]], BatchT],
        place: Place,
        *,
        prefetch: int = 2,
    ) -> None:
        self.sampler = sampler
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,  # yields the data set's keys, which need not be numbers
            num_workers=place.workers,
            collate_fn=collate,
            pin_memory=place.pin_memory,
            prefetch_factor=prefetch if place.workers else None,
            worker_init_fn=leave_signals_alone,
        )

    def __iter__(self) -> Iterator[BatchT]:
        for batch in self._loader:
            # counted when it is handed out: a checkpoint of the step that uses it has consumed it
            self.sampler.consumed()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; call it before iterating.

        Raises:
            SettingsError: the state belongs to other data or another seed.
        """
        self.sampler.load_state_dict(state)
