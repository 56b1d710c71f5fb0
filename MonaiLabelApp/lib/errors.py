"""Refusals that only a server makes, each with its HTTP status, and how an error is told without server paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fm3d_core.errors import FM3DError


class NotServed(FM3DError):
    """A model, strategy, version or address this server does not have."""

    http_status = 404


class ForeignPage(FM3DError):
    """A request that a web page of another origin made a browser send, or that names another host."""

    http_status = 403


class NotAuthorised(FM3DError):
    """A request without the token that the server asks for, or from another machine where it asks for none."""

    http_status = 401


class TooLarge(FM3DError):
    """A request whose body is larger than the server takes."""

    http_status = 413


class UnknownImage(FM3DError):
    """An image id that is not in the datastore."""

    http_status = 404

    def __init__(self, image_id: object) -> None:
        name = str(image_id)[:128]
        super().__init__(f"there is no image '{name}' on the server", remedy="Upload it first, or choose another")


class Conflict(FM3DError):
    """A request that is right but cannot be served in the present state."""

    http_status = 409


class Busy(FM3DError):
    """More work than the server queues."""

    http_status = 429


class ClientGone(FM3DError):
    """The client closed the connection; the status is nginx's, and nobody sees it."""

    http_status = 499

    def __init__(self) -> None:
        super().__init__("the client is gone", remedy="Ask again")


@contextmanager
def told_as(name: str, *, always: bool = False) -> Iterator[None]:
    """Let errors of the block name ``name`` instead of a path of the server, which the client has no use for.

    ``always``: also where an error names no path.
    """
    try:
        yield
    except FM3DError as error:
        if error.path is None and not always:
            raise
        raise type(error)(error.problem, remedy=error.remedy, path=name) from error
