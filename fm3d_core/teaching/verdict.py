"""Whether a new version becomes the active one: by what was measured on held-out volumes, and said in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.adaptation import AdapterCard

# What is measured of a version that has learned from more volumes errs on the careful side: each training of the check
# has a volume less, and less time. So much lower it may come out without being worse (benchmarks/expected_dice.py).
CARE = 0.05
_EMPTY: Mapping[str, float] = {}


@dataclass(frozen=True)
class Verdict:
    """Whether to activate, and why."""

    activate: bool
    why: str


def verdict(
    candidate: AdapterCard, active: AdapterCard | None, *, unseen: Mapping[str, float] = _EMPTY, name: str = "active"
) -> Verdict:
    """Judge a new version against the active one.

    Where both were measured on the same volumes that neither had learned from when it was measured, the mean difference
    on these decides.

    Args:
        candidate: card of the new version, with ``expected_dice`` if it was measured.
        active: card of the active version; None: there is none.
        unseen: Dice of the active version on volumes that it has not learned from and the candidate has.
        name: how the active version is called in the answer, such as "active" or "earlier".
    """
    if active is None:
        return Verdict(True, "the first version")
    if not active.cases and active.expected_dice is None:
        return Verdict(True, f"the {name} version has learned from no volume")
    if new := [each for each in candidate.task.labels if each not in active.task.labels]:
        return Verdict(True, f"the {name} version does not know {', '.join(new)}; {_common(candidate, active)}")
    if gone := [each for each in active.task.labels if each not in candidate.task.labels]:
        return Verdict(
            True, f"{', '.join(gone)} was not asked for and is no longer found; {_common(candidate, active)}"
        )
    if candidate.expected_dice is not None and (active.expected_dice is not None or unseen):
        return _measured(candidate, active, unseen, name)
    if candidate.stage == "final":
        both = candidate.expected_dice is None and active.expected_dice is None
        which = (
            "neither was" if both else "it was not" if candidate.expected_dice is None else f"the {name} one was not"
        )
        return Verdict(True, f"a whole training; {which} measured on held-out volumes yet")
    return Verdict(False, f"an early stage, and nothing shows that it is better than the {name} version")


def verdict_on_learned(ours: Mapping[str, float], theirs: Mapping[str, float], name: str = "earlier") -> Verdict:
    """Judge a version whose training was cut short: nothing could be held out, and nobody waits for a measurement.

    Args:
        ours, theirs: Dice of both on volumes that both have learned from, which is too good for either.
        name: how the other version is called in the answer.
    """
    if not ours:
        return Verdict(
            False, f"cut short, and no volume is there that both it and the {name} version have learned from"
        )
    new, old = (sum(which.values()) / len(which) for which in (ours, theirs))
    said = f"cut short; Dice {new:.3f}, the {name} version {old:.3f}, on volumes that both have learned from"
    return Verdict(new > old + CARE, said if new > old + CARE else f"{said}: not clearly better")


def _measured(candidate: AdapterCard, active: AdapterCard, unseen: Mapping[str, float], name: str) -> Verdict:
    """By the Dice on volumes of both, or, where there are none, by the means."""
    ours, theirs = candidate.expected_dice, active.expected_dice
    assert ours is not None
    figures = {**_of_same_images(candidate, active), **unseen}
    common = sorted(set(ours.cases) & set(figures))
    if common:
        new, old = (sum(which[each] for each in common) / len(common) for which in (ours.cases, figures))
        where = f"on the same {len(common)} held-out volumes" if len(common) > 1 else "on the same held-out volume"
    else:
        assert theirs is not None
        new, old, where = ours.mean, theirs.mean, "each on held-out volumes of its own"
    more = len(candidate.cases) - len(active.cases)
    said = f"Dice {new:.3f}, the {name} version {old:.3f}, {where}"
    if new >= old:
        return Verdict(True, said)
    if more > 0 and new >= old - CARE:
        return Verdict(True, f"{said}: no worse within the error of this measure, and learned from {more} volumes more")
    return Verdict(False, f"{said}: not better")


def _of_same_images(candidate: AdapterCard, active: AdapterCard) -> dict[str, float]:
    """The active version's figures on volumes that have the same name and the same voxels in both."""
    found = active.expected_dice.cases if active.expected_dice is not None else {}
    if not active.cases:  # it was not trained, and measured on labelled volumes as they are
        return dict(found)
    ours = {case.name: case.voxels_sha256 for case in candidate.cases}
    theirs = {case.name: case.voxels_sha256 for case in active.cases}
    return {name: dice for name, dice in found.items() if ours.get(name) == theirs.get(name, "")}


def _common(candidate: AdapterCard, active: AdapterCard) -> str:
    """What is known of the structures that both have learned."""
    ours = candidate.expected_dice.structures if candidate.expected_dice is not None else {}
    theirs = active.expected_dice.structures if active.expected_dice is not None else {}
    both = [name for name in ours if name in theirs]
    if not both:
        return "they cannot be compared"
    new, old = (sum(which[name] for name in both) / len(both) for which in (ours, theirs))
    worse = ", which is worse" if new < old else ""
    return f"on {', '.join(both)} it has Dice {new:.3f}, before {old:.3f}{worse}"
