"""What the server was started with: MONAI Label hands it over as texts (``--conf NAME VALUE``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fm3d_core.errors import SettingsError

SHORTEST_TOKEN = 16
UPLOAD_MB = 2048


@dataclass(frozen=True)
class ServerSettings:
    """The server's settings.

    Attributes:
        labels: names of the structures; empty: those of the active adapter, or of the submitted labels.
        adapters: folder of the adapter store; None: in the app's folder.
        token: what a client must send; None: nothing, and only this machine is served.
        origins: web pages, as SCHEME://HOST[:PORT], whose requests are taken.
        upload_bytes: largest body of a request.
        training_bytes: most memory of a training; None: four fifths of what is free when it starts.
    """

    labels: tuple[str, ...] = ()
    adapters: Path | None = None
    token: str | None = None
    origins: frozenset[str] = frozenset()
    upload_bytes: int = UPLOAD_MB << 20
    training_bytes: int | None = None

    @classmethod
    def read(cls, conf: Mapping[str, str]) -> ServerSettings:
        """From ``--conf``: labels, adapters, token_file, origins, upload_mb, training_mb.

        Raises:
            SettingsError: an impossible value.
        """
        token_file = conf.get("token_file")
        training = conf.get("training_mb")
        return cls(
            labels=_listed(conf.get("labels", "")),
            adapters=Path(conf["adapters"]) if conf.get("adapters") else None,
            token=read_token(Path(token_file)) if token_file else None,
            origins=frozenset(check_origin(origin) for origin in _listed(conf.get("origins", ""))),
            upload_bytes=_megabytes("upload_mb", conf.get("upload_mb", str(UPLOAD_MB))),
            training_bytes=_megabytes("training_mb", training) if training else None,
        )


def read_token(path: Path) -> str:
    """The token in a file: its first line.

    Raises:
        SettingsError: no such file, or too short a token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("the token cannot be read", path=path, remedy=_make_one(path)) from error
    token = lines[0].strip() if lines else ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token:
        raise SettingsError(f"holds no token of {SHORTEST_TOKEN} characters", path=path, remedy=_make_one(path))
    return token


def check_origin(origin: str) -> str:
    """``origin`` if it is one.

    Raises:
        SettingsError: it is not.
    """
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
        raise SettingsError(f"'{origin}' is no origin", remedy="Give for example https://viewer.hospital.example")
    return origin


def _make_one(path: Path) -> str:
    return f"Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}; chmod 600 {path}"


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _megabytes(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 20:
        raise SettingsError(f"{name} is {text}", remedy="Give whole megabytes from 1 to 1048576")
    return int(text) << 20
