"""Addresses of training: /train/."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks

from MonaiLabelApp.lib.errors import Busy, NotServed
from MonaiLabelApp.lib.lanes import finish

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


def training_routes(app: FM3DApp) -> APIRouter:
    """Start, watch, stop."""
    routes = APIRouter(prefix="/train", tags=["Train"])

    def run(model: str, params: dict[str, Any]) -> Any:
        if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
            raise Busy("a training is running", remedy="Wait until it has ended or stop it")
        request = app.accept_training(model, {"run_id": uuid.uuid4().hex, **params})
        task, reason = AsyncTask.run("train", request=request)
        if task is None:
            raise Busy(str(reason), remedy="Wait until it has ended or stop it")
        return task

    @routes.post("/", include_in_schema=False)
    @routes.post("/{model}", summary="Learn from the submitted labels")
    async def start(request: Request, model: str = "segmentation", params: dict[str, Any] | None = None) -> Any:
        return await finish(request, app.lanes.files, lambda _: run(model, params or {}))

    @routes.get("/", summary="Where the last training stands")
    async def status(all: bool = False, check_if_running: bool = False) -> Any:
        found, _ = AsyncTask.status("train", all, check_if_running)
        if found is None:
            raise NotServed("nothing was trained since the server started", remedy="Press Train")
        return found

    @routes.delete("/", summary="Stop the training")
    async def stop(request: Request) -> Any:
        return await finish(request, app.lanes.files, lambda _: AsyncTask.stop("train"))

    return routes
