"""Addresses of the published recipes: /recipes/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.recipes.offered import all_described, described, find_recipe
from MonaiLabelApp.lib.recipes.settings import WEIGHTS

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


def recipe_routes(app: FM3DApp) -> APIRouter:
    """List, look at one, check one against what is here."""
    routes = APIRouter(prefix="/recipes", tags=["Recipes"])
    lanes = app.lanes

    @routes.get("/", summary="Published trainings that can be asked for: what each learns and needs")
    async def listed(request: Request) -> dict[str, Any]:
        recipes = await finish(request, lanes.files, lambda _: all_described())
        return {"recipes": recipes, "weights": list(WEIGHTS)}

    @routes.get("/{name}", summary="One recipe, all that its file says")
    async def one(request: Request, name: str) -> dict[str, Any]:
        def look(_: object) -> dict[str, Any]:
            return {**described(name), "recipe": find_recipe(name).to_dict()}

        return await finish(request, lanes.files, look)

    @routes.post("/{name}/check", summary="Compare what is here with a recipe, without training; it names a job")
    async def check(request: Request, name: str) -> dict[str, str]:
        job = await finish(request, lanes.looking, lambda _: app.background.check_recipe(name))
        return {"job": job.id}

    return routes
