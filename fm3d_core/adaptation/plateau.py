"""Ending a training whose loss no longer falls: the rest of the budget would only be waited for."""

from __future__ import annotations

WINDOW = 0.2  # share of the budget whose mean loss is compared with that of the share before
FEWEST_STEPS = 200  # in each of the two: the loss of a step is noise around its mean
GAIN = 0.01  # relative; less is none
COOLING = 0.2  # of the share spent so far: in it the learning rate falls to 0, which lowers the loss once more


class Plateau:
    """Watches the loss, and shortens the budget when it stays where it is.

    The learning rate then falls to zero from where it is along the rest of its schedule, only faster.
    """

    def __init__(self) -> None:
        self._history: list[tuple[float, float]] = []
        self._looked = 0.0
        self._end: tuple[float, float] | None = None

    @property
    def reached(self) -> bool:
        """Whether the loss no longer fell."""
        return self._end is not None

    def note(self, spent: float, loss: float) -> None:
        """Take in the loss of a step at which a share ``spent`` of the budget was used."""
        self._history.append((spent, loss))
        if self._end is None and spent - self._looked >= WINDOW / 4:
            self._looked = spent
            if self._stays(spent):
                self._end = spent, min(COOLING * spent, 1 - spent)

    def shortened(self, spent: float) -> float:
        """The share of the shortened budget that is spent, when it is ``spent`` of the whole one."""
        if self._end is None:
            return spent
        reached, rest = self._end
        return reached + (1 - reached) * min((spent - reached) / rest, 1.0) if rest > 0 else 1.0

    def _stays(self, spent: float) -> bool:
        if spent < 2 * WINDOW:
            return False
        last = [loss for when, loss in self._history if when > spent - WINDOW]
        before = [loss for when, loss in self._history if spent - 2 * WINDOW < when <= spent - WINDOW]
        if min(len(last), len(before)) < FEWEST_STEPS:
            return False
        return sum(last) / len(last) > (1 - GAIN) * sum(before) / len(before)
