"""Addresses of scoring: /scoring/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.lanes import finish

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp

_WORDS = {"waiting": "SUBMITTED", "running": "RUNNING", "done": "DONE", "cancelled": "STOPPED", "failed": "ERROR"}


def scoring_routes(app: FM3DApp) -> APIRouter:
    """Start, watch, cancel."""
    routes = APIRouter(prefix="/scoring", tags=["Scoring"])

    @routes.post("/", include_in_schema=False)
    @routes.post("/{method}", summary="Score the images for the choice of the next one, in the background")
    async def start(request: Request, method: str = "images", params: dict[str, Any] | None = None) -> dict[str, Any]:
        return await finish(request, app.lanes.looking, lambda _: _task(app.background.score(method).to_dict()))

    @routes.get("/", summary="Where the last scoring stands")
    async def status() -> dict[str, Any]:
        if app.background.last_scoring is None:
            raise NotServed("nothing was scored since the server started", remedy="POST /scoring/images")
        return _task(app.background.last_scoring.to_dict())

    @routes.delete("/", summary="Cancel scoring; what was scored stays")
    async def cancel() -> dict[str, Any] | None:
        if app.background.last_scoring is None:
            return None
        app.background.last_scoring.cancel()
        return _task(app.background.last_scoring.to_dict())

    return routes


def _task(job: dict[str, Any]) -> dict[str, Any]:
    """A job with the status words of MONAI Label's tasks."""
    return {**job, "status": _WORDS[job["state"]]}
