"""What a training in stages gives: versions, as they land."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.adaptation import StoredAdapter
    from fm3d_core.adaptation.expected_dice import ExpectedDice


@dataclass(frozen=True)
class TaughtVersion:
    """A version that a training gave.

    Attributes:
        stored: the version in the store, with its card.
        seconds: from the beginning of the training until it landed.
        why: it is, or is not, the active one; in words.
    """

    stored: StoredAdapter
    seconds: float
    why: str

    @property
    def version(self) -> int:
        """Its number."""
        return self.stored.version

    @property
    def stage(self) -> str:
        """Name of the stage that gave it."""
        return self.stored.card.stage

    @property
    def active(self) -> bool:
        """Whether it was made the active one."""
        return self.stored.active

    @property
    def expected_dice(self) -> ExpectedDice | None:
        """What Dice to expect, if that was measured."""
        return self.stored.card.expected_dice


@dataclass(frozen=True)
class Taught:
    """What a training came to.

    Attributes:
        versions: all it gave, in order.
        cancelled: whether ``should_stop`` ended it; what landed before is kept.
    """

    versions: tuple[TaughtVersion, ...]
    cancelled: bool = False


VersionCallback = Callable[[TaughtVersion], None]


def ignore_version(version: TaughtVersion) -> None:
    """The callback of a caller who waits for the end."""
