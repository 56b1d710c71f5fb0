"""Published trainings that a server offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NO_RECIPE = "none"
OWN_WEIGHTS = "recipe"  # those that the recipe names


@dataclass(frozen=True)
class Recipe:
    """One of them.

    Attributes:
        name: asks for it.
        about: what it learns.
        needs: what has to be there, in words.
        wholeVolume: whether it asks about volumes as a whole and takes no labels.
        atHand: whether its own weights are on the server.
        remedy: what to do where they are not.
    """

    name: str
    about: str = ""
    needs: str = ""
    wholeVolume: bool = False
    atHand: bool = True
    remedy: str = ""


def parseRecipe(entry: Mapping[str, Any]) -> Recipe:
    """A recipe from an entry of ``GET /recipes/``."""
    return Recipe(
        name=str(entry["name"]),
        about=str(entry.get("about") or ""),
        needs=str(entry.get("needs") or ""),
        wholeVolume=bool(entry.get("whole_volume")),
        atHand=bool(entry.get("at_hand", True)),
        remedy=str(entry.get("remedy") or ""),
    )
