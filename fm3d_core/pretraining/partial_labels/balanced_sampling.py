"""Sets in turn, volumes at random: a small set counts as much as a large one (FSEFT's ``balanced``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fm3d_core.errors import SettingsError


@dataclass(frozen=True)
class BalancedDraw:
    """One sample: place ``position`` of the sequence of a run with ``seed`` falls on volume ``index``.

    The place, not the volume, names the random stream: a volume occurs many times.
    """

    seed: int
    position: int
    index: int

    def stream(self, purpose: str) -> int:
        """The seed of this sample's random numbers for one purpose; 63 bits, the same everywhere and always."""
        return _number(f"{self.seed} {self.position} {purpose}")


class BalancedSampler:
    """Yields batches of draws without end.

    All ranks walk through one sequence: place p belongs to group p mod (number of groups), and takes a uniformly
    random volume of it. Rank r of W takes the places r, r + W, r + 2W, ... As in
    :class:`~fm3d_core.pretraining.sampling.EndlessSampler` the state counts what the training has consumed.

    Args:
        groups: name -> volumes; the order of names is that of the turns.
        batch_size: samples of one batch on one rank.
        seed: of the order and of all samples.
        rank, world_size: of this process.

    Raises:
        SettingsError: no volumes, or impossible numbers.
    """

    def __init__(
        self,
        groups: Mapping[str, tuple[int, ...]],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not groups or not all(groups.values()) or batch_size < 1 or not 0 <= rank < world_size:
            raise SettingsError(
                f"no batches of {batch_size} from {len(groups)} sets for rank {rank} of {world_size}",
                remedy="Give sets with volumes, a batch size of 1 or more and a rank below the number of processes",
            )
        self.groups = dict(groups)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self._turns = list(self.groups.values())
        self._position = 0  # samples that all ranks together have consumed

    def __iter__(self) -> Iterator[list[BalancedDraw]]:
        position = self._position + self.rank
        while True:
            batch = []
            for _ in range(self.batch_size):
                batch.append(self._draw(position))
                position += self.world_size
            yield batch

    def consumed(self, batches: int = 1) -> None:
        """Tell that the training on each rank is done with so many batches."""
        self._position += batches * self.batch_size * self.world_size

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands; the same on all ranks."""
        return {"position": self._position, "sets": self._sizes(), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; batch size and number of ranks may be others, the sequence is the same.

        Raises:
            SettingsError: the state belongs to other sets or another seed.
        """
        for name, mine in (("sets", self._sizes()), ("seed", self.seed)):
            if state[name] != mine:
                raise SettingsError(
                    f"the run to resume has the {name} {state[name]}, this one {mine}",
                    remedy="Resume with the data and the seed it was started with, or start a new run",
                )
        self._position = int(state["position"])

    def _sizes(self) -> dict[str, int]:
        return {name: len(volumes) for name, volumes in self.groups.items()}

    def _draw(self, position: int) -> BalancedDraw:
        volumes = self._turns[position % len(self._turns)]
        # 63 random bits modulo a number of volumes: uniform but for less than one in 10^13
        return BalancedDraw(self.seed, position, volumes[_number(f"{self.seed} {position} volume") % len(volumes)])


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
