"""The server's front: which of MONAI Label's addresses are served, and how refusals reach the client in words."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.errors import Busy, ForeignPage, NotServed

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp

# First parts of the addresses that are served. Left out: proxy (forwards to any host), session (unpacks archives),
# model (replaces weight files), batch and scoring (their request names a folder that a new process puts on its
# import path), ohif, and reload.
SERVED = frozenset({"", "docs", "favicon.ico", "openapi.json", "static", "auth", "logs"}) | frozenset(
    {"activelearning", "datastore", "info", "infer", "train"}
)


def install(server: FastAPI, app: FM3DApp) -> None:
    """Put the front before MONAI Label's endpoints, in place of its permission for every web page to read answers."""
    server.add_exception_handler(FM3DError, _refusal)
    server.add_exception_handler(json.JSONDecodeError, _not_json)
    server.user_middleware[:] = [kept for kept in server.user_middleware if kept.cls is not CORSMiddleware]
    server.user_middleware.append(Middleware(Front, training=_training_start(app)))
    # Built already, by the very call that starts the app; the next request builds it anew.
    server.middleware_stack = None


class Front:
    """Lets through what is served, and takes the start of a training to our own endpoint."""

    def __init__(self, app: ASGIApp, training: ASGIApp) -> None:
        self._app, self._training = app, training

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = _refused(scope)
        if refused:
            await (await _refusal(None, refused))(scope, receive, send)
        elif scope["path"].startswith("/train") and scope["method"] == "POST":
            await self._training(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refused(scope: Scope) -> FM3DError | None:
    """Why a request is not let through."""
    parts = scope["path"].strip("/").split("/")
    if parts[0] not in SERVED or parts[:2] in (["infer", "wsi"], ["infer", "wsi_v2"]):
        return NotServed("this address is not served", remedy="See /docs for those that are")
    if _from_another_page(scope):
        return ForeignPage("requests of other web pages are refused", remedy="Use a client or /docs")
    return None


def _from_another_page(scope: Scope) -> bool:
    """Whether a browser sends this for a page that did not come from this server."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    return bool(origin) and urlsplit(origin).netloc != headers.get(b"host", b"").decode("latin-1")


def _training_start(app: FM3DApp) -> FastAPI:
    """POST /train/MODEL: MONAI Label's own starts the process whatever was asked for."""
    front = FastAPI(openapi_url=None)
    front.add_exception_handler(FM3DError, _refusal)

    # async, so not in a thread: the datastore is for one. 429 for a second training, as MONAI Label answers.
    @front.post("/train/")
    @front.post("/train/{model}")
    async def start(
        model: str = "segmentation",
        params: dict[str, Any] | None = None,
        user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN)),  # noqa: B008
    ) -> Any:
        if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
            raise Busy("a training is running", remedy="Wait until it has ended or stop it")
        request = app.accept_training(model, {"run_id": uuid.uuid4().hex, **(params or {})})
        task, reason = AsyncTask.run("train", request=request)
        if task is None:
            raise Busy(str(reason), remedy="Wait until it has ended or stop it")
        return task

    return front


async def _refusal(request: Request | None, error: Exception) -> JSONResponse:
    status = error.http_status if isinstance(error, FM3DError) else 500
    return JSONResponse({"detail": str(error)}, status)


async def _not_json(request: Request, error: Exception) -> JSONResponse:
    return await _refusal(request, SettingsError("the parameters are not JSON", remedy='Send for example {"a": 1}'))
