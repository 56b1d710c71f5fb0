"""What was learned: the versions a server keeps, and how two of them compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExpectedDice:
    """How good new volumes will probably be segmented.

    Attributes:
        mean, low, high: Dice, and the interval it lies in with a probability of 95 %.
        how: on what the estimate rests, in words.
    """

    mean: float
    low: float
    high: float
    how: str = ""


@dataclass(frozen=True)
class Version:
    """One version the server keeps.

    Attributes:
        number: counted from 1.
        active: whether it segments unless another one is asked for.
        created: when, ISO 8601.
        stage, method, preset, recipe: keys of how it was learned; empty if unknown.
        labels: the structures it knows.
        cases: ids of the volumes it has learned from.
        expected: None while nothing is known.
        seconds: how long learning took, None if unknown.
        notes: remarks of the training.
    """

    number: int
    active: bool = False
    created: str = ""
    stage: str = ""
    method: str = ""
    preset: str = ""
    recipe: str = ""
    labels: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    expected: ExpectedDice | None = None
    seconds: float | None = None
    notes: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two versions on the submitted labels.

    Attributes:
        one, other: the versions.
        cases: id -> (Dice of one, Dice of the other), None where it cannot be computed.
        means: mean Dice of each.
        difference: mean of one minus other.
        p: probability of such a difference if there were none; None if too few cases tell.
        learnedFrom: cases that either version has learned from; their Dice flatters.
        verdict: the server's conclusion in words.
    """

    one: int
    other: int
    cases: Mapping[str, tuple[float | None, float | None]]
    means: tuple[float | None, float | None]
    difference: float | None
    p: float | None
    learnedFrom: tuple[str, ...] = ()
    verdict: str = ""


def parseVersion(entry: Mapping[str, Any]) -> Version:
    """A version from an entry of ``GET /adapters/``."""
    dice = entry.get("expected_dice")
    expected = None
    if dice and dice.get("mean") is not None:
        low, high = (float(dice[key]) if dice.get(key) is not None else float(dice["mean"]) for key in ("low", "high"))
        expected = ExpectedDice(float(dice["mean"]), low, high, str(dice.get("how") or ""))
    notes = entry.get("notes") or ""
    return Version(
        number=int(entry["version"]),
        active=bool(entry.get("active")),
        created=str(entry.get("created") or ""),
        stage=str(entry.get("stage") or ""),
        method=str(entry.get("method") or ""),
        preset=str(entry.get("preset") or ""),
        recipe=str(entry.get("recipe") or ""),
        labels=tuple(map(str, entry.get("labels") or ())),
        cases=tuple(map(str, entry.get("cases") or ())),
        expected=expected,
        seconds=entry.get("seconds"),
        notes=notes if isinstance(notes, str) else " ".join(map(str, notes)),
    )


def parseComparison(one: int, other: int, result: Mapping[str, Any]) -> Comparison:
    """A comparison from a job's result."""
    cases = {
        str(case): (scores.get("a"), scores.get("b")) for case, scores in sorted((result.get("cases") or {}).items())
    }
    return Comparison(
        one=one,
        other=other,
        cases=cases,
        means=(result.get("mean_a"), result.get("mean_b")),
        difference=result.get("difference"),
        p=result.get("p"),
        learnedFrom=tuple(result.get("learned_from") or ()),
        verdict=str(result.get("verdict") or ""),
    )
