"""A server's address, from what a person types."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import AddressInvalid
from .translation import tr as _

DEFAULT_PORT = 8000  # MONAI Label's own


@dataclass(frozen=True)
class Address:
    """Where a server listens, from what a person types: ``localhost``, ``:8000``, ``http://10.0.0.5:8000/label/``."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        :raises AddressInvalid: with an example of what is expected.
        """
        stripped = text.strip()
        url = stripped if "://" in stripped else f"http://{stripped}"
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port = "", "", None
        if stripped.startswith(":") and port:
            host = "127.0.0.1"
        if scheme not in ("http", "https") or not host or any(c.isspace() for c in host):
            message = _("'{address}' is not a server address. Expected something like http://127.0.0.1:8000")
            raise AddressInvalid(message.format(address=stripped))
        if host == "0.0.0.0":  # what a server prints when it listens everywhere: not an address to connect to
            host = "127.0.0.1"
        return cls(scheme, host, port or (443 if scheme == "https" else DEFAULT_PORT), parts.path.rstrip("/"))

    @property
    def isLoopback(self) -> bool:
        """Whether data sent there stay on this computer."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"
