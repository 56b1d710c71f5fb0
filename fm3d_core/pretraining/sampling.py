"""Which volume comes when: an endless, shuffled, sharded order that any number of processes can resume exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Place


@dataclass(frozen=True)
class Draw:
    """One sample: volume ``index`` of pass ``epoch`` of a run with ``seed``.

    A volume occurs once in a pass, so these three numbers name the sample and its random stream. ``batch`` is where
    the batch of all ranks that it belongs to begins in the sequence.
    """

    seed: int
    epoch: int
    index: int
    batch: int = 0

    def stream(self, purpose: str) -> int:
        """The seed of this sample's random numbers for one purpose; 63 bits, the same everywhere and always."""
        text = f"{self.seed} {self.epoch} {self.index} {purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class EndlessSampler:
    """Yields batches of draws without end.

    All ranks walk through one sequence, a fresh permutation of the volumes for each pass, and rank r of W takes the
    samples r, r + W, r + 2W, ... A batch may reach over the end of a pass; nothing is dropped or repeated.

    The sampler itself runs ahead of the training, because workers prefetch. So the state counts what the training has
    consumed, which the caller tells with :meth:`consumed`.

    Args:
        size: how many volumes there are.
        batch_size: samples of one batch on one rank.
        seed: of the order and of all samples.
        rank, world_size: of this process.

    Raises:
        SettingsError: no volumes, or impossible numbers.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if size < 1 or batch_size < 1 or not 0 <= rank < world_size:
            raise SettingsError(
                f"no batches of {batch_size} from {size} volumes for rank {rank} of {world_size}",
                remedy="Give volumes, a batch size of 1 or more and a rank below the number of processes",
            )
        self.size, self.batch_size, self.seed, self.rank, self.world_size = size, batch_size, seed, rank, world_size
        self._position = 0  # samples that all ranks together have consumed
        self._order: tuple[int, list[int]] = (-1, [])

    def __iter__(self) -> Iterator[list[Draw]]:
        position = self._position + self.rank
        while True:
            batch, start = [], position - self.rank
            for _ in range(self.batch_size):
                batch.append(self._draw(position, start))
                position += self.world_size
            yield batch

    @classmethod
    def of(cls, place: Place, size: int) -> EndlessSampler:
        """For one process of a run."""
        return cls(size, place.batch_size, seed=place.seed, rank=place.rank, world_size=place.world_size)

    @property
    def epoch(self) -> int:
        """The pass that the next sample belongs to."""
        return self._position // self.size

    def consumed(self, batches: int = 1) -> None:
        """Tell that the training on each rank is done with so many batches."""
        self._position += batches * self.batch_size * self.world_size

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands; the same on all ranks."""
        return {"position": self._position, "size": self.size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; batch size and number of ranks may be others, the sequence is the same.

        Raises:
            SettingsError: the state belongs to another number of volumes or another seed.
        """
        for name, mine in (("size", self.size), ("seed", self.seed)):
            if state[name] != mine:
                what = "number of volumes" if name == "size" else name
                raise SettingsError(
                    f"the run to resume has the {what} {state[name]}, this one {mine}",
                    remedy="Resume with the data and the seed it was started with, or start a new run",
                )
        self._position = int(state["position"])

    def _draw(self, position: int, start: int) -> Draw:
        epoch, place = divmod(position, self.size)
        if self._order[0] != epoch:
            self._order = (epoch, self._permutation(epoch))
        return Draw(self.seed, epoch, self._order[1][place], start)

    def _permutation(self, epoch: int) -> list[int]:
        import numpy as np

        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(self.size).tolist()
        return order
