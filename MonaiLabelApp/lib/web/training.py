"""Addresses of training: /train/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.training.queue import as_task

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


def training_routes(app: FM3DApp) -> APIRouter:
    """Start, watch, stop."""
    routes = APIRouter(prefix="/train", tags=["Train"])
    lanes, queue = app.lanes, app.trainings

    @routes.post("/again", summary="The same training once more, after it did not come to its end")
    async def again(request: Request, id: str) -> dict[str, Any]:
        return await finish(request, lanes.files, lambda _: app.train_again(id))

    @routes.post("/", include_in_schema=False)
    @routes.post("/{model}", summary="Learn from the submitted labels; a second training waits for the first")
    async def start(
        request: Request, model: str = "segmentation", params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return await finish(request, lanes.files, lambda _: app.start_training(model, params or {}))

    @routes.get("/", summary="The training that runs, the next one, or the last; or all; or one by its id")
    async def status(request: Request, all: bool = False, check_if_running: bool = False, id: str | None = None) -> Any:
        def look(_: object) -> Any:
            if all:
                return [as_task(training) for training in queue.all()]
            if id is not None:
                training = queue.find(id)
                return {**as_task(training), "stats": app.training_stats(training)}
            current = queue.running() if check_if_running else queue.current()
            if current is None:
                raise NotServed("no training runs or was ever started", remedy="Press Train")
            return as_task(current)

        return await finish(request, lanes.looking, look)

    @routes.delete("/", summary="End a training in order; what it has kept stays")
    async def stop(request: Request, id: str | None = None) -> dict[str, Any] | None:
        def cancel(_: object) -> dict[str, Any] | None:
            training = queue.cancel(id)
            return as_task(training) if training else None

        return await finish(request, lanes.looking, cancel)

    return routes
