"""HTTP with the standard library only: one request, timeouts for each phase, files streamed both ways, cancellable.

``requests`` is not used, so that the module has nothing to install; ``cgi``, which MONAI Label's own client parses
answers with, is gone since Python 3.13.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .address import Address
from .cancellation import Cancellation
from .errors import (
    AnswerInvalid,
    ClientError,
    ConnectionLost,
    ServerRefused,
    ServerTimeout,
    ServerUnreachable,
)
from .multipart import BLOCK, Form
from .translation import tr as _

LARGEST_TEXT = 64 << 20  # bytes of an answer that is held in memory; volumes go to files


@dataclass(frozen=True)
class Timeouts:
    """Seconds a phase may take before the user is told.

    Attributes:
        connect: until the connection stands.
        read: silence while the server works on an ordinary request, or between two pieces of a file.
            A MONAI Label server answers nothing at all while it computes a segmentation, hence not shorter.
        compute: silence while the server computes (segmentation, upload of a large volume).
    """

    connect: float = 5.0
    read: float = 30.0
    compute: float = 600.0


class Answer:
    """A successful answer whose body is still to be read."""

    def __init__(self, response: http.client.HTTPResponse, transport: Transport, silence: float) -> None:
        self._response, self._transport, self._silence = response, transport, silence
        self._address = transport.address
        self.headers = response.headers

    def blocks(self) -> Iterator[bytes]:
        """The body piece by piece; a body shorter than announced raises :class:`ConnectionLost`."""
        announced, received = self._response.length, 0
        while block := self._read():
            received += len(block)
            yield block
        if announced is not None and received < announced:  # read(n) itself says nothing about a body cut short
            self._transport.cancellation.check()
            message = _("The answer of {address} broke off after {received} of {announced} bytes. Try again.")
            raise ConnectionLost(message.format(address=self._address, received=received, announced=announced))

    def _read(self) -> bytes:
        with self._transport.errorsInWords(self._silence):
            return self._response.read(BLOCK)

    def json(self) -> Any:
        """The body as JSON.

        :raises AnswerInvalid: if it is something else.
        """
        body = bytearray()
        for block in self.blocks():
            body += block
            if len(body) > LARGEST_TEXT:
                raise AnswerInvalid(_("The answer of {address} is too large.").format(address=self._address))
        try:
            return json.loads(body)
        except ValueError:
            raise AnswerInvalid(
                _("{address} answered, but not as a MONAI Label server does. Is the address right?").format(
                    address=self._address
                )
            ) from None

    def save(self, path: Path) -> Path:
        """The body as a file that appears only when it is complete."""
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                for block in self.blocks():
                    file.write(block)
            part.replace(path)
        except OSError as error:
            raise ClientError(_("Cannot write {path}: {reason}").format(path=path, reason=error.strerror)) from error
        finally:
            part.unlink(missing_ok=True)
        return path


class Transport:
    """Sends requests to one server.

    :param address: where it listens.
    :param timeouts: how long each phase may take.
    :param cancellation: ends a request in progress; without one it only ends by itself.
    :param token: says who is there, to servers that ask; kept in memory only.
    """

    def __init__(
        self, address: Address, timeouts: Timeouts, cancellation: Cancellation | None = None, token: str = ""
    ) -> None:
        self.address, self.timeouts, self._token = address, timeouts, token
        self.cancellation = cancellation or Cancellation()

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Form | Mapping[str, Any] | None = None,
        silence: float | None = None,
    ) -> Iterator[Answer]:
        """Send a request and give its answer, whose body is to be read within the block.

        :param path: below the server's address, each part already quoted.
        :param body: a file to upload, a mapping to send as JSON, or nothing.
        :param silence: seconds without a byte from the server; ``timeouts.read`` by default.
        :raises ClientError: one of its kinds, for whatever goes wrong.
        """
        silence = self.timeouts.read if silence is None else silence
        target = self.address.path + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        connection = self._connection()
        try:
            self._connect(connection)
            with self.cancellation.interrupting(_waker(connection)):
                with self.errorsInWords(silence):
                    connection.sock.settimeout(silence)
                    self._send(connection, method, target, body)
                    response = connection.getresponse()
                    if response.status != http.client.OK:
                        raise refusal(response, self.address)
                yield Answer(response, self, silence)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        where, timeout = (self.address.host, self.address.port), self.timeouts.connect
        if self.address.scheme == "https":
            return http.client.HTTPSConnection(*where, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(*where, timeout=timeout)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        self.cancellation.check()
        message = None
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            message = _("The certificate of {address} is not trusted: {reason}").format(
                address=self.address, reason=error.verify_message
            )
        except ssl.SSLError:
            message = _("{address} does not speak https. Try http:// instead.").format(address=self.address)
        except socket.gaierror:
            message = _("There is no computer named '{host}'. Check the address.").format(host=self.address.host)
        except (TimeoutError, OSError) as error:
            reason = error.strerror or _("no answer in {seconds:g} s").format(seconds=self.timeouts.connect)
            message = _("No server answers at {address} ({reason}). Is it started, and is the address right?").format(
                address=self.address, reason=reason
            )
        if message:
            raise ServerUnreachable(message)

    def _send(self, connection: http.client.HTTPConnection, method: str, target: str, body: Any) -> None:
        headers = {"Accept": "*/*", "Connection": "close"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if isinstance(body, Form):
            headers |= {"Content-Type": body.contentType, "Content-Length": str(body.length)}
        elif body is not None:
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        # A server that refuses an upload may close before it has read all of it; its answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body=body, headers=headers)

    @contextmanager
    def errorsInWords(self, silence: float) -> Iterator[None]:
        """Turn what sockets and http.client raise into :class:`ClientError`; a cancelled request is just that."""
        try:
            yield
        except TimeoutError:
            self.cancellation.check()
            message = _("{address} is connected but has not answered for {seconds:g} s. It may be busy; try again.")
            raise ServerTimeout(message.format(address=self.address, seconds=silence)) from None
        except (OSError, http.client.HTTPException) as error:
            self.cancellation.check()
            if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
                message = _("{address} does not speak HTTP. Is the port right?")
                raise AnswerInvalid(message.format(address=self.address)) from None
            message = _("The connection to {address} broke ({reason}). Try again; if it stays so, restart the server.")
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ConnectionLost(message.format(address=self.address, reason=reason)) from None


def _waker(connection: http.client.HTTPConnection) -> Callable[[], None]:
    """Wakes up the thread that waits in this connection; closing it would not."""

    def wake() -> None:
        with suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    return wake


def refusal(response: http.client.HTTPResponse, address: Address) -> ServerRefused:
    """The error for an answer that is not a success, in the server's words where it has some."""
    text = response.read(1 << 16).decode("utf-8", "replace").strip()
    try:
        detail = json.loads(text).get("detail", "")
    except (ValueError, AttributeError):
        detail = ""
    if isinstance(detail, list):  # a request that does not fit the interface: one entry per field
        detail = "; ".join(f"{'.'.join(map(str, d.get('loc', [])))}: {d.get('msg', '')}" for d in detail)
    detail = str(detail).lstrip("+ ")
    status = response.status
    if status == http.client.UNAUTHORIZED or (status == http.client.FORBIDDEN and not detail):
        message = _("{address} asks for a token, and this one is missing or wrong. Type it in the field Token.").format(
            address=address
        )
    elif detail and status != http.client.INTERNAL_SERVER_ERROR:
        message = detail
    elif detail:
        message = _("The server failed: {detail}").format(detail=detail)
    elif 300 <= status < 400:
        message = _("{address} sends elsewhere: {location}. Use that address.").format(
            address=address, location=response.headers.get("Location", "?")
        )
    elif status == http.client.NOT_FOUND:
        message = _("{address} does not know this request. Is it a MONAI Label server?").format(address=address)
    else:
        message = _("The server failed and gave no reason (HTTP {status}). Its log says more.").format(status=status)
    return ServerRefused(message, status, detail)
