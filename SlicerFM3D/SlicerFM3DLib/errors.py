"""What can go wrong in the module and between it and its server, said for the person at the panel."""

from __future__ import annotations


class UserError(Exception):
    """Anything the user should read: what happened and what to do. ``str(error)`` is the whole message."""


class SceneError(UserError):
    """Something in the scene cannot be sent, or something received cannot be shown."""


class ClientError(UserError):
    """Something between the module and its server."""


class AddressInvalid(ClientError):
    """The server address cannot be understood."""


class ServerUnreachable(ClientError):
    """No connection: nothing listens there, the name is unknown, the certificate is not trusted."""


class ServerTimeout(ClientError):
    """Connected, but the server stayed silent for longer than the time allowed."""


class ConnectionLost(ClientError):
    """The connection broke in the middle of a request or of its answer."""


class AnswerInvalid(ClientError):
    """The server answered something else than its interface promises."""


class ServerRefused(ClientError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        detail: the server's own words; empty when it gave no reason.
    """

    def __init__(self, message: str, status: int, detail: str) -> None:
        super().__init__(message)
        self.status, self.detail = status, detail


class Cancelled(ClientError):
    """The user cancelled; nothing is wrong."""
