"""Addresses of inference: /infer/MODEL, in threads, ended when the client goes away."""

from __future__ import annotations

import json
import mimetypes
import uuid
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from fm3d_core.errors import SettingsError
from fm3d_core.progress import ShouldStop
from MonaiLabelApp.lib.infers.result import Result
from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.web.uploads import json_object, received

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp


class Output(str, Enum):
    """What an answer holds: the file, the parameters, or both."""

    image = "image"
    json = "json"
    all = "all"


def inference_routes(app: FM3DApp) -> APIRouter:
    """One address for each infer task."""
    routes = APIRouter(prefix="/infer", tags=["Infer"])

    @routes.post("/{model}", summary="Segment an image of the server")
    async def infer(
        request: Request,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),  # noqa: B008
        label: UploadFile | None = File(None),  # noqa: B008
        output: Output = Output.all,
    ) -> Response:
        if file is not None or session_id:
            raise SettingsError("the image must be on the server", remedy="Upload it, then name it with ?image=ID")
        task = app.infer_task(model)

        def work(should_stop: ShouldStop) -> Result:
            wanted = json_object(params)
            if label is None:
                return app.run_inference(model, image, wanted, should_stop=should_stop)
            with received(label) as path:
                return app.run_inference(model, image, wanted, label=path, should_stop=should_stop)

        result = await finish(request, getattr(app.lanes, task.lane), work, discard=Result.discard)
        return answer(result, output)

    return routes


def answer(result: Result, output: Output) -> Response:
    """A result as MONAI Label's clients expect it."""
    if result.file is None or output is Output.json:
        result.discard()
        return JSONResponse(result.params)
    kind = mimetypes.guess_type(result.file.name)[0] or "application/octet-stream"
    if output is Output.image:
        cleaning = BackgroundTask(result.discard)
        return FileResponse(result.file, media_type=kind, filename=result.file.name, background=cleaning)
    try:
        boundary, body = multipart(result.params, result.file, kind)
    finally:
        result.discard()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


def multipart(params: dict[str, Any], file: Path, kind: str) -> tuple[str, bytes]:
    """Boundary and body of the fields ``params`` (JSON) and ``image`` (a file)."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return boundary, head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
