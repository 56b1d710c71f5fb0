"""Who may reach a server: addresses of this machine, the token, and origins of web pages."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from fm3d_core.errors import SettingsError

SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file: its first line.

    Raises:
        SettingsError: no such file, or no token of at least 16 characters without blanks.
    """
    remedy = f"Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}; chmod 600 {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("the token cannot be read", path=path, remedy=remedy) from error
    token = lines[0].strip() if lines else ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token:
        raise SettingsError(f"holds no token of {SHORTEST_TOKEN} characters", path=path, remedy=remedy)
    return token


def check_origin(origin: str) -> str:
    """``origin`` if it is one of a web page.

    Raises:
        SettingsError: it is not.
    """
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
        raise SettingsError(f"'{origin}' is no origin", remedy="Give for example https://viewer.hospital.example")
    return origin


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse files that a server cannot speak HTTPS with.

    Raises:
        SettingsError: one without the other, or not a certificate with its key.
    """
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError("HTTPS needs a certificate and its key", remedy="Give both --certificate and --key")
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            "is no certificate that fits the key", path=certificate, remedy=f"Give PEM files; the key is {key}"
        ) from error
