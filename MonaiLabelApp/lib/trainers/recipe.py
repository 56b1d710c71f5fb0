"""Trainings by a published recipe: judged when they are asked for, prepared when they begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict
from MonaiLabelApp.lib.labels import FINAL
from MonaiLabelApp.lib.recipes.cases import PARTS, RecipeCases, recipe_cases, with_labels
from MonaiLabelApp.lib.recipes.offered import drawn_structures, find_recipe
from MonaiLabelApp.lib.recipes.settings import given_settings
from MonaiLabelApp.lib.requests import TrainRequest
from MonaiLabelApp.lib.training.record import Training, TrainingRequest, keep_copy

if TYPE_CHECKING:
    from fm3d_core.progress import ProgressCallback, ShouldStop
    from fm3d_core.recipes import Recipe

SAID_BY_RECIPE = ("labels", "shots", "continue_from")


def accept_recipe(model: str, request: TrainRequest, datastore: CheckedDatastore) -> TrainingRequest:
    """Judge a request for a recipe before anything starts, and fix what it will learn from.

    Raises:
        NotServed: there is no such recipe.
        SettingsError: parameters that the recipe says itself, or impossible ones.
        Conflict: weights, labels or answers are missing, or do not fit.
    """
    recipe = find_recipe(str(request.by_recipe))
    said = [name for name in SAID_BY_RECIPE if getattr(request, name) is not None]
    if request.preset not in (None, "none"):
        said.append("preset")
    if said:
        raise SettingsError(f"{said[0]} does not go with recipe", remedy="The recipe says it; leave it out, or none")
    cases = recipe_cases(recipe, datastore, request.cases)
    _refuse_what_teaches_nothing(recipe, cases)
    settings = given_settings(request, recipe, len(cases.listed.training))
    task = recipe.built_task()
    names = drawn_structures(recipe) or task.labels
    return TrainingRequest.new(model, tuple(names), cases.ids, settings, request.run_id, str(request.by_recipe))


def prepare_recipe(training: Training, datastore: CheckedDatastore) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The cases of a training as they are now, with a copy of each label; and what is left out, in words.

    Raises:
        FM3DError: labels or answers are gone or do not fit any more.
    """
    recipe = find_recipe(training.request.recipe)
    now = recipe_cases(recipe, datastore)
    entries: list[Mapping[str, Any]] = []
    for part in PARTS:
        for case in getattr(now.listed, part):
            if case.name not in training.request.cases:
                continue
            entry: dict[str, Any] = {"name": case.name, "image": str(case.images[0]), "part": part}
            entry |= {"images": [str(path) for path in case.images], "fields": dict(case.fields), "label": None}
            if drawn_structures(recipe):
                label = datastore.label_file(case.name)
                entry["label"] = str(keep_copy(label, training.folder / "labels" / label.name))
                entry["info"] = datastore.get_label_info(case.name, FINAL)
            entries.append(entry)
    gone = set(training.request.cases) - {entry["name"] for entry in entries}
    return entries, [*now.remarks, *(f"{case}: it was removed meanwhile" for case in sorted(gone))]


def check(name: str, datastore: CheckedDatastore, progress: ProgressCallback, should_stop: ShouldStop) -> Any:
    """What ``fm3d recipes check`` says of a recipe and of what is here.

    Raises:
        FM3DError: there is no such recipe, or nothing here can teach it.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.recipes.checking import check_recipe

    recipe = find_recipe(name)
    cases = with_labels(recipe, recipe_cases(recipe, datastore), datastore)
    found = check_recipe(recipe, cases.listed, progress=progress, should_stop=should_stop)
    remarks = [{"wrong": True, "text": remark} for remark in cases.remarks]
    return {"findings": [*remarks, *({"wrong": each.wrong, "text": each.text} for each in found)]}


def _refuse_what_teaches_nothing(recipe: Recipe, cases: RecipeCases) -> None:
    """Refuse answers none of which can be used; a label is looked at when the training reads it."""
    from fm3d_core.recipes.cases import image_case

    if not recipe.built_task().whole_volume:
        return
    if not cases.listed.training:
        raise Conflict("no case to learn from", remedy="Write split training, or nothing, for some")
    reasons = []
    for case in cases.listed.training:
        try:
            image_case(recipe, case)
        except FM3DError as error:
            reasons.append(f"{case.name} {error.problem}. {error.remedy}")
    if len(reasons) == len(cases.listed.training):
        raise Conflict(f"no answer fits recipe {recipe.name}", remedy=f"The first: {reasons[0]}")
