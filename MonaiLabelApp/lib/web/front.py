"""The server's front: every address that is served, behind the gate, in place of MONAI Label's own endpoints.

MONAI Label's endpoints block the event loop while they compute, take paths and weight files from requests, forward to
other hosts, and answer mistakes with a bare 500; ``tests/app/test_app_gate.py`` goes through the list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.errors import NotServed
from MonaiLabelApp.lib.requests import faults_in_words
from MonaiLabelApp.lib.web.adapters import adapter_routes
from MonaiLabelApp.lib.web.datastore import datastore_routes
from MonaiLabelApp.lib.web.gate import Gate, refusal_answer
from MonaiLabelApp.lib.web.inference import inference_routes
from MonaiLabelApp.lib.web.jobs import job_routes
from MonaiLabelApp.lib.web.others import other_routes
from MonaiLabelApp.lib.web.recipes import recipe_routes
from MonaiLabelApp.lib.web.scoring import scoring_routes
from MonaiLabelApp.lib.web.training import training_routes

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


def install(server: FastAPI, app: FM3DApp) -> None:
    """Let ``server``, which MONAI Label has made and uvicorn runs, answer through our front only."""
    front: ASGIApp = Gate(make_api(app), app.settings)
    if app.settings.origins:
        front = CORSMiddleware(
            front,
            allow_origins=sorted(app.settings.origins),
            allow_methods=METHODS,
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Content-Disposition"],
        )
    server.user_middleware[:] = [Middleware(_InPlace, front=front)]
    # Built already, by the very call that starts the app; the next request builds it anew.
    server.middleware_stack = None


class _InPlace:
    """Passes every request to the front, and the server's own start and end to the server."""

    def __init__(self, app: ASGIApp, front: ASGIApp) -> None:
        self._app, self._front = app, front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._app if scope["type"] == "lifespan" else self._front)(scope, receive, send)


def make_api(app: FM3DApp) -> FastAPI:
    """Everything that is served."""
    api = FastAPI(title="FM3D", version=app.version, docs_url="/", redoc_url="/docs")
    api.add_exception_handler(FM3DError, _refusal)
    api.add_exception_handler(RequestValidationError, _not_understood)
    api.add_exception_handler(HTTPException, _unknown_address)
    api.add_exception_handler(Exception, _refusal)
    for routes in (
        inference_routes,
        training_routes,
        adapter_routes,
        job_routes,
        datastore_routes,
        scoring_routes,
        recipe_routes,
        other_routes,
    ):
        api.include_router(routes(app))
    return api


async def _refusal(request: Request, error: Exception) -> JSONResponse:
    return refusal_answer(error)


async def _not_understood(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = faults_in_words(error.errors())
    return refusal_answer(SettingsError(f"the request cannot be used ({faults})", remedy="See /docs for what it needs"))


async def _unknown_address(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return refusal_answer(NotServed("this address is not served", remedy="See /docs for those that are"))
    return JSONResponse({"detail": error.detail}, error.status_code)
