"""Who may ask: this machine or the holder of the token, no other web page, and no body larger than was agreed."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fm3d_core.cli.server_access import is_loopback
from fm3d_core.errors import FM3DError, SettingsError
from MonaiLabelApp.lib.errors import ForeignPage, NotAuthorised, TooLarge
from MonaiLabelApp.lib.settings import ServerSettings

SMALL_BODY = 1 << 20  # bytes; of requests that carry no file
WITH_FILES = ("infer", "datastore", "adapters")
# MONAI Label's clients ask here whether a token is needed, and for one.
OPEN_PATHS = frozenset({"/auth", "/auth/", "/auth/token"})


@dataclass(frozen=True)
class _Asked:
    """What of a request is judged."""

    path: str
    method: str
    headers: Mapping[str, str]
    client: str

    @classmethod
    def read(cls, scope: Scope) -> _Asked:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client")
        return cls(scope["path"], scope["method"], headers, client[0] if client else "")


class Gate:
    """Stands before everything the server offers.

    Args:
        app: what is behind it.
        settings: token, origins and the largest upload.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":  # nothing here speaks WebSocket
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        asked = _Asked.read(scope)
        try:
            self._judge(asked)
            limit = self._limit(asked)
        except FM3DError as refusal:
            await refusal_answer(refusal)(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)

    def _judge(self, asked: _Asked) -> None:
        origin = asked.headers.get("origin", "")
        if origin and origin not in self._settings.origins and urlsplit(origin).netloc != asked.headers.get("host"):
            raise ForeignPage("requests of other web pages are refused", remedy="Start the server with --origins")
        if self._settings.token is None:
            _refuse_strangers(asked)
        elif asked.path not in OPEN_PATHS and not self._authorised(asked):
            raise NotAuthorised("this server asks for a token", remedy="Send it as Authorization: Bearer TOKEN")

    def _authorised(self, asked: _Asked) -> bool:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and same_token(token.strip(), self._settings.token)

    def _limit(self, asked: _Asked) -> int:
        """Most bytes of the body; a body that says it is larger is refused before it is read."""
        carries = asked.path.strip("/").split("/")[0] in WITH_FILES and asked.method in ("PUT", "POST")
        limit = self._settings.upload_bytes if carries else SMALL_BODY
        said = asked.headers.get("content-length", "0")
        if not said.isdecimal():
            raise SettingsError("the request's length is no number", remedy="Send Content-Length in bytes")
        if int(said) > limit:
            raise too_large(limit)
        return limit


def same_token(given: str, token: str | None) -> bool:
    """Whether ``given`` is the token; how long this takes does not depend on how much of it is right."""
    return token is not None and hmac.compare_digest(given.encode(), token.encode())


def too_large(limit: int) -> TooLarge:
    """The refusal of a body above ``limit`` bytes."""
    return TooLarge(
        f"the request is larger than {limit / 2**20:.0f} MB",
        remedy="Crop the image, or start the server with a higher --upload-limit",
    )


def refusal_answer(error: Exception) -> JSONResponse:
    """An error as an answer in words."""
    status = error.http_status if isinstance(error, FM3DError) else 500
    detail = str(error) if isinstance(error, FM3DError) else "The server met a fault of its own. Its log says more."
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"detail": detail}, status, headers)


def _refuse_strangers(asked: _Asked) -> None:
    """Without a token, only this machine is served, and only under its own name.

    A page may have its own name lead to 127.0.0.1 (DNS rebinding); its requests then come from this machine, but name
    another host.
    """
    if not is_loopback(asked.client):
        raise NotAuthorised(
            "this server answers only its own machine", remedy="Start it with --token-file, or go through ssh -L"
        )
    if not is_loopback(urlsplit(f"//{asked.headers.get('host', '')}").hostname or ""):
        raise ForeignPage("the request names another host", remedy="Connect to 127.0.0.1 or localhost")


def _counted(receive: Receive, limit: int) -> Receive:
    """``receive`` that stops a body which turns out larger than ``limit``, as one without a length may."""
    done = 0

    async def counted() -> Message:
        nonlocal done
        message = await receive()
        done += len(message.get("body", b""))
        if done > limit:
            raise HTTPException(413, str(too_large(limit)))  # the one exception that FastAPI lets pass while it reads
        return message

    return counted
