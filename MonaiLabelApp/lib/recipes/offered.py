"""Which recipes there are, what each needs, and whether its weights are here."""

from __future__ import annotations

from functools import cache
from typing import Any

from fm3d_core.errors import FM3DError
from fm3d_core.recipes import Recipe, read_recipe, shipped_recipes
from MonaiLabelApp.lib.errors import NotServed

ANSWERS = "answers.csv"  # in the study folder


@cache
def offered() -> tuple[str, ...]:
    """The names of the recipes that can be asked for, variants as NAME:VARIANT."""
    return tuple(
        name
        for recipe in shipped_recipes()
        for name in (recipe, *(f"{recipe}:{variant}" for variant in read_recipe(recipe).variants))
    )


def find_recipe(name: str) -> Recipe:
    """A recipe by its name; a file is none.

    Raises:
        NotServed: there is none.
    """
    if name not in offered():
        raise NotServed(f"there is no recipe '{name[:64]}'", remedy="GET /recipes/ lists those that are here")
    return _read(name)


def all_described() -> list[dict[str, Any]]:
    """All recipes; each file of weights is looked for once."""
    looked: dict[tuple[str, str | None, int], str | None] = {}
    entries = []
    for name in offered():
        recipe = find_recipe(name)
        key = recipe.network.backbone, recipe.network.weights, recipe.built_task().channels
        if key not in looked:
            looked[key] = why_not_here(recipe)
        entries.append(_entry(name, recipe, looked[key]))
    return entries


def described(name: str) -> dict[str, Any]:
    """What a client sees of a recipe: what it learns, what it needs, whether its weights are here."""
    recipe = find_recipe(name)
    return _entry(name, recipe, why_not_here(recipe))


def _entry(name: str, recipe: Recipe, missing: str | None) -> dict[str, Any]:
    task, columns = recipe.built_task(), asked_columns(recipe)
    return {
        "name": name,
        "about": recipe.about,
        "source": recipe.source,
        "modality": recipe.modality,
        "kind": task.kind,
        "whole_volume": task.whole_volume,
        "labels": list(drawn_structures(recipe) or task.labels),
        "channels": task.channels,
        "columns": list(columns),
        "needs": _needs(recipe),
        "backbone": recipe.network.backbone,
        "weights": recipe.network.weights,
        "method": recipe.network.method,
        "epochs": recipe.training.epochs,
        "iterations": recipe.training.iterations,
        "at_hand": missing is None,
        "remedy": missing,
    }


def why_not_here(recipe: Recipe) -> str | None:
    """What to do to have the recipe's own weights; None: they are here."""
    from fm3d_core.adaptation.building import spec_of

    try:
        spec_of(recipe.settings(1), recipe.built_task().channels)
    except FM3DError as error:
        return f"{error.problem}. {error.remedy}"
    return None


def asked_columns(recipe: Recipe) -> tuple[str, ...]:
    """Columns of answers.csv that the recipe's question needs; empty: submitted labels are enough."""
    from fm3d_core.tasks import JointTask, WholeVolumeTask

    task = recipe.built_task()
    return task.asked_columns if isinstance(task, (WholeVolumeTask, JointTask)) else ()


def drawn_structures(recipe: Recipe) -> tuple[str, ...]:
    """Structures in a label file; empty for a question about whole volumes."""
    return () if recipe.built_task().whole_volume else tuple(recipe.dense_task().drawn)


@cache
def _read(name: str) -> Recipe:
    return read_recipe(name)


def _needs(recipe: Recipe) -> str:
    """What a recipe asks for, in a sentence."""
    task, columns = recipe.built_task(), asked_columns(recipe)
    parts = []
    if drawn := drawn_structures(recipe):
        parts.append(f"submitted labels of {', '.join(drawn)}")
    if columns:
        parts.append(f"{ANSWERS} in the study folder with the columns id, {', '.join(columns)}")
    if task.channels > 1:
        parts.append(f"images of {task.channels} channels in one file")
    if recipe.training.shots:
        parts.append(f"{recipe.training.shots + 1} volumes or more, of which {recipe.training.shots} are drawn")
    return f"{recipe.modality}: {'; '.join(parts)}"
