"""Addresses of the rest: /info/, /activelearning/, /auth/, /logs/."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import PlainTextResponse

from MonaiLabelApp.lib.errors import NotAuthorised, NotServed
from MonaiLabelApp.lib.lanes import finish
from MonaiLabelApp.lib.web.gate import same_token

if TYPE_CHECKING:
    from MonaiLabelApp.lib.app import FM3DApp

MOST_LINES = 5000


def other_routes(app: FM3DApp) -> APIRouter:
    """What the server offers, which volume is next, the token, the log."""
    routes = APIRouter()
    lanes, token = app.lanes, app.settings.token

    @routes.get("/info/", tags=["App"], summary="What the server offers, and where the last training stands")
    async def info(request: Request) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: app.info())

    @routes.post("/activelearning/{strategy}", tags=["ActiveLearning"], summary="The volume to label next")
    async def sample(request: Request, strategy: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        return await finish(request, lanes.looking, lambda _: next_sample(app, strategy, params or {}))

    @routes.get("/auth/", tags=["Auth"], summary="Whether a token is needed")
    async def needed() -> dict[str, Any]:
        return {"enabled": token is not None, "client_id": "fm3d", "realm": ""}

    @routes.post("/auth/token", tags=["Auth"], summary="For clients that ask for a password: it is the token")
    async def give_token(password: str = Form("")) -> dict[str, str | None]:
        if token is not None and not same_token(password, token):
            raise NotAuthorised("the password is not the server's token", remedy="Ask whoever started the server")
        return {"access_token": token, "token_type": "bearer" if token else None}

    @routes.get("/auth/token/valid", tags=["Auth"], summary="Whether the token that was sent is right")
    async def valid() -> dict[str, str]:
        return {"username": "holder of the token"}  # the gate has refused the others

    @routes.get("/logs/", tags=["Others"], summary="The end of the server's log, as text")
    async def logs(request: Request, lines: int = Query(300, ge=1, le=MOST_LINES)) -> PlainTextResponse:
        file = Path(app.app_dir) / "logs" / "app.log"
        return PlainTextResponse(await finish(request, lanes.looking, lambda _: last_lines(file, lines)))

    return routes


def next_sample(app: FM3DApp, strategy: str, params: dict[str, Any]) -> dict[str, Any]:
    """The next volume, with what is known of it; and who was given it, for the strategies to take into account."""
    sample = app.next_sample({**params, "strategy": strategy})
    if not sample:
        return {}
    store = app.datastore()
    known = store.get_image_info(sample["id"])
    given = {"ts": int(time.time()), "client_id": params.get("client_id")}
    store.update_image_info(sample["id"], {"strategy": {**known.get("strategy", {}), strategy: given}})
    return {**sample, **store.get_image_info(sample["id"])}


def last_lines(file: Path, count: int) -> str:
    """The end of a text file.

    Raises:
        NotServed: there is none.
    """
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return "".join(deque(lines, count))
    except FileNotFoundError as error:
        raise NotServed("the server writes its log elsewhere", remedy="See the terminal it was started in") from error
