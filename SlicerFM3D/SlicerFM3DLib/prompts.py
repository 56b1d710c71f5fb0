"""What the user shows of a structure: clicks inside and outside, a box, a region. Without Qt and MRML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Position = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box.

    Attributes:
        low, high: its corners, RAS in mm.
    """

    low: Position
    high: Position

    def asJSON(self) -> dict[str, list[float]]:
        """As the server takes it."""
        return {"low": list(self.low), "high": list(self.high)}


@dataclass(frozen=True)
class Prompts:
    """All prompts of one structure; the server gets all of them each time.

    Attributes:
        points: (position RAS in mm, whether it is inside).
        box: the structure lies within it.
        region: only here is anything computed.
    """

    points: tuple[tuple[Position, bool], ...] = ()
    box: Box | None = None
    region: Box | None = None

    @property
    def isEmpty(self) -> bool:
        """Whether nothing is shown; a region alone shows nothing."""
        return not self.points and self.box is None

    def asParameters(self, structure: str) -> dict[str, Any]:
        """As the server takes them."""
        return {
            "structure": structure,
            "points": [{"position": list(position), "positive": inside} for position, inside in self.points],
            "box": self.box.asJSON() if self.box else None,
            "roi": self.region.asJSON() if self.region else None,
        }
