"""Addresses of images and labels: MONAI Label's /datastore/, in threads and with every name checked."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse

from fm3d_core.errors import SettingsError
from fm3d_core.files import sha256_of
from fm3d_core.volumes import case_name
from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.labels import FINAL
from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.requests import LabelRequest, UploadRequest, parse
from MonaiLabelApp.lib.web.uploads import json_object, received

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp

LARGEST_INFO = 16_384  # bytes
# Kept by the server itself, not by clients.
OWN_INFO = frozenset({"ts", "name", "path", "strategy", "scores", "label_info"})


class Listing(str, Enum):
    """What of the datastore is listed."""

    train = "train"
    stats = "stats"
    all = "all"


def datastore_routes(app: FM3DApp) -> APIRouter:
    """Upload, fetch, list, remove; what is known of each."""
    routes = APIRouter(prefix="/datastore", tags=["Datastore"])
    store, lanes = app.datastore(), app.lanes

    @routes.get("/", summary="Images and labels")
    async def listed(request: Request, output: Listing = Listing.stats) -> Any:
        ways = {Listing.all: store.json, Listing.train: store.datalist, Listing.stats: store.status}
        return await finish(request, lanes.looking, lambda _: ways[output]())

    @routes.put("/", include_in_schema=False)
    @routes.put("/image", summary="Upload an image")
    async def add_image(
        request: Request,
        image: str | None = None,
        params: str = Form("{}"),
        file: UploadFile = File(...),  # noqa: B008
    ) -> dict[str, str]:
        def add(_: object) -> dict[str, str]:
            parse(UploadRequest, json_object(params))
            with received(file) as path:
                return {"image": store.add_image(image or case_name(file.filename or ""), str(path), {})}

        return await finish(request, lanes.files, add)

    @routes.delete("/", include_in_schema=False)
    @routes.delete("/image", summary="Move an image and its labels into the bin")
    async def remove_image(request: Request, id: str) -> dict[str, str]:
        await finish(request, lanes.files, lambda _: store.remove_image(id))
        return {}

    @routes.head("/image", summary="Whether there is such an image")
    async def check_image(request: Request, image: str, check_sum: str | None = None) -> dict[str, str]:
        def check(_: object) -> dict[str, str]:
            path = store.image_file(image)
            if check_sum and check_sum.removeprefix("SHA256:") != sha256_of(path):
                raise NotServed(f"the image '{image[:128]}' on the server is another one", remedy="Upload it")
            return {}

        return await finish(request, lanes.files, check)

    @routes.get("/image", summary="Download an image")
    async def download_image(request: Request, image: str) -> FileResponse:
        path = await finish(request, lanes.files, lambda _: store.image_file(image))
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @routes.get("/image/info", summary="What is known of an image")
    async def image_info(request: Request, image: str) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: store.get_image_info(image))

    @routes.put("/image/info", summary="Add to what is known of an image")
    async def change_image_info(request: Request, image: str, info: str = Form("{}")) -> None:
        await finish(request, lanes.looking, lambda _: store.update_image_info(image, checked_info(info)))

    @routes.put("/label", summary="Submit a label map")
    async def save_label(
        request: Request,
        image: str,
        params: str = Form("{}"),
        tag: str = FINAL,
        label: UploadFile = File(...),  # noqa: B008
    ) -> dict[str, Any]:
        def save(_: object) -> dict[str, Any]:
            wanted = parse(LabelRequest, json_object(params))
            with received(label) as path:
                label_id = store.save_label(image, str(path), tag or FINAL, wanted.kept())
            return {**app.on_save_label(image, label_id), "image": image, "label": label_id}

        return await finish(request, lanes.files, save)

    @routes.delete("/label", summary="Move a label into the bin")
    async def remove_label(request: Request, id: str, tag: str) -> dict[str, str]:
        await finish(request, lanes.files, lambda _: store.remove_label(id, tag))
        return {}

    @routes.head("/label", summary="Whether there is such a label")
    async def check_label(request: Request, image: str, tag: str) -> dict[str, str]:
        await finish(request, lanes.looking, lambda _: store.label_file(image, tag))
        return {}

    @routes.get("/label", summary="Download a label map")
    async def download_label(request: Request, label: str, tag: str) -> FileResponse:
        path = await finish(request, lanes.looking, lambda _: store.label_file(label, tag))
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @routes.get("/label/info", summary="What is known of a label")
    async def label_info(request: Request, label: str, tag: str) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: store.get_label_info(label, tag))

    @routes.put("/label/info", summary="Add to what is known of a label")
    async def change_label_info(request: Request, label: str, tag: str, info: str = Form("{}")) -> None:
        await finish(request, lanes.looking, lambda _: store.update_label_info(label, tag, checked_info(info)))

    return routes


def checked_info(text: str) -> dict[str, Any]:
    """What a client wants to be known of an image or a label.

    Raises:
        SettingsError: no JSON object, too long, or something that the server itself keeps.
    """
    info = json_object(text, "what is to be known")
    if own := sorted(OWN_INFO & info.keys()):
        raise SettingsError(f"{', '.join(own)} is kept by the server", remedy="Choose other names")
    if len(json.dumps(info)) > LARGEST_INFO:
        raise SettingsError(f"the information is longer than {LARGEST_INFO} bytes", remedy="Shorten it")
    return info
