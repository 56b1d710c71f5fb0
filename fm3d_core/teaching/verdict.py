"""Whether a new version becomes the active one: by what was measured on held-out volumes, and said in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.adaptation import AdapterCard
    from fm3d_core.adaptation.expected_dice import ExpectedDice


@dataclass(frozen=True)
class Verdict:
    """Whether to activate, and why."""

    activate: bool
    why: str


def verdict(candidate: AdapterCard, active: AdapterCard | None) -> Verdict:
    """Judge a new version against the active one.

    Where both were measured on the same held-out volumes, the mean difference on these decides; the higher one stays.

    Args:
        candidate: card of the new version, with ``expected_dice`` if it was measured.
        active: card of the active version; None: there is none.
    """
    if active is None:
        return Verdict(True, "the first version")
    if not active.cases:
        return Verdict(True, "the active version has learned from no volume")
    new = [name for name in candidate.task.labels if name not in active.task.labels]
    if new:
        return Verdict(True, f"the active version does not know {', '.join(new)}")
    if gone := [name for name in active.task.labels if name not in candidate.task.labels]:
        return Verdict(
            True, f"only {', '.join(candidate.task.labels)} was asked for; {', '.join(gone)} is no longer found"
        )
    ours, theirs = candidate.expected_dice, active.expected_dice
    if ours is not None and theirs is not None:
        return _measured(ours, theirs)
    if candidate.stage == "final":
        unmeasured = "neither version" if ours is None and theirs is None else "the new" if ours is None else "the old"
        return Verdict(True, f"a whole training; what Dice to expect of {unmeasured} is not known")
    return Verdict(False, "a first stage does not replace a version while nothing shows that it is better")


def _measured(ours: ExpectedDice, theirs: ExpectedDice) -> Verdict:
    common = sorted(set(ours.cases) & set(theirs.cases))
    if common:
        new = sum(ours.cases[name] for name in common) / len(common)
        old = sum(theirs.cases[name] for name in common) / len(common)
        where = f"on the same {len(common)} held-out volumes" if len(common) > 1 else "on the same held-out volume"
    else:
        new, old, where = ours.mean, theirs.mean, "each on its own held-out volumes"
    said = f"Dice {new:.3f} against {old:.3f} of the active version, {where}"
    return Verdict(new >= old, said if new >= old else f"{said}: the active version stays")
