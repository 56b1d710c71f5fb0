"""What a client may change of a recipe: its weights, if it says so, and how long it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.errors import Conflict

if TYPE_CHECKING:
    from fm3d_core.recipes import Recipe
    from MonaiLabelApp.lib.requests import TrainRequest

OWN = "recipe"  # the weights that the recipe names
SHIPPED = "shipped"
WEIGHTS = (OWN, SHIPPED, "random")
HEADS_ANYWHERE = ("auto", "linear", "mlp")  # the others need the backbone that a recipe names
DENSE_PARTS = ("decoder", "bottleneck")


def given_settings(request: TrainRequest, recipe: Recipe, cases: int) -> dict[str, Any]:
    """What goes before the recipe's own settings, in plain data.

    Other weights than the recipe's are taken only if they are asked for; a head that needs the recipe's backbone then
    becomes the default one.

    Raises:
        SettingsError: parameters that say what a recipe says, two lengths, or weights nobody knows.
        FM3DError: the weights are not here.
    """
    from fm3d_core.adaptation.building import spec_of

    given = _network(request, recipe)
    given |= request.model_dump(include={"seed", "method"}, exclude_none=True)
    lengths = request.model_dump(include={"seconds", "steps", "epochs"}, exclude_none=True)
    if len(lengths) > 1:
        raise SettingsError(f"{' and '.join(lengths)} are given", remedy="Give one of seconds, steps and epochs")
    if "epochs" in lengths:
        lengths = {"steps": lengths["epochs"] * (recipe.training.iterations or cases)}
    if "seconds" in lengths:
        lengths = {"steps": None, **lengths}
    given |= lengths
    settings = recipe.settings(cases, **as_settings(given))
    try:
        spec_of(settings, recipe.built_task().channels)
    except FM3DError as error:
        if "weights" in given:
            raise
        remedy = (
            f"{error.remedy}. Or choose other weights: weights '{SHIPPED}' are those that come with FM3D, 'random' are"
            " none; both are of a small network"
        )
        raise Conflict(f"recipe {recipe.name}: {error.problem}", remedy=remedy) from error
    return given


def as_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same as ``FinetuneSettings`` takes it."""
    return {**given, "weights": Path(given["weights"])} if given.get("weights") else dict(given)


def _network(request: TrainRequest, recipe: Recipe) -> dict[str, Any]:
    """Weights and backbone, if they are not the recipe's own."""
    from fm3d_core.models.weights.catalogue import catalogue
    from fm3d_core.models.weights.importing import DEFAULT_BACKBONE
    from fm3d_core.models.weights.shipped_weights import shipped_for, shipped_weights

    weights = request.weights or OWN
    if weights not in (*WEIGHTS, *catalogue(), *shipped_weights()):
        raise SettingsError(
            f"there are no weights '{weights[:64]}'",
            remedy=f"Choose {', '.join(WEIGHTS)}, or an id of fm3d weights list",
        )
    if weights == OWN:
        return {} if request.backbone is None else {"backbone": request.backbone}
    backbone = request.backbone or (DEFAULT_BACKBONE if weights in WEIGHTS else None)
    if weights == SHIPPED:
        shipped = shipped_for(backbone or DEFAULT_BACKBONE)
        if shipped is None:
            raise SettingsError(f"no weights for {backbone} come with FM3D", remedy="Leave backbone out")
        weights = shipped.id
    given: dict[str, Any] = {"weights": weights, "backbone": backbone}
    if backbone != recipe.network.backbone:
        given["head"] = recipe.network.head if recipe.network.head in HEADS_ANYWHERE else "auto"
        given |= {part: "auto" for part in DENSE_PARTS if getattr(recipe.network, part) != "auto"}
    return given
