"""Addresses of the adapter versions: /adapters/."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.web.uploads import received

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


class CompareRequest(BaseModel):
    """Which two versions, on which cases (None: all with a submitted label)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: int = Field(ge=1)
    b: int = Field(ge=1)
    cases: list[str] | None = Field(None, min_length=1, max_length=100_000)


def adapter_routes(app: FM3DApp) -> APIRouter:
    """List, activate, roll back, download, upload, delete, restore, compare."""
    routes = APIRouter(prefix="/adapters", tags=["Adapters"])
    adapters, lanes = app.adapters, app.lanes

    @routes.get("/", summary="All versions, the newest first")
    async def listed(request: Request) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: adapters.listed())

    @routes.post("/", summary="Upload a version: a zip file that /adapters/VERSION/download gave")
    async def upload(request: Request, file: UploadFile = File(...)) -> dict[str, Any]:  # noqa: B008
        def add(_: object) -> dict[str, Any]:
            with received(file, ".zip") as path:
                return adapters.add(path, app.settings.upload_bytes)

        return await finish(request, lanes.files, add)

    @routes.post("/roll-back", summary="Activate the version that was active before")
    async def roll_back(request: Request) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: adapters.roll_back())

    @routes.post("/compare", summary="Compare two versions on submitted cases; the answer names a job")
    async def compare(request: Request, wanted: CompareRequest) -> dict[str, str]:
        job = await finish(request, lanes.looking, lambda _: app.background.compare(wanted.a, wanted.b, wanted.cases))
        return {"job": job.id}

    @routes.post("/{version}/activate", summary="Make a version the active one")
    async def activate(request: Request, version: int) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: adapters.activate(version))

    @routes.post("/{version}/restore", summary="Take a version out of the bin")
    async def restore(request: Request, version: int) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: adapters.restore(version))

    @routes.delete("/{version}", summary="Move a version into the bin")
    async def delete(request: Request, version: int) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: adapters.delete(version))

    @routes.get("/{version}/download", summary="A version as a zip file, without names of cases")
    async def download(request: Request, version: int) -> FileResponse:
        folder = tempfile.TemporaryDirectory(prefix="download-")
        path = Path(folder.name) / f"fm3d-adapter-{version}.zip"
        try:
            await finish(request, lanes.files, lambda _: adapters.pack(version, path))
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(path, media_type="application/zip", filename=path.name, background=_cleaning(folder))

    return routes


def _cleaning(folder: tempfile.TemporaryDirectory[str]) -> BackgroundTask:
    return BackgroundTask(folder.cleanup)
