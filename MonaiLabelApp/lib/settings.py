"""What the server was started with: MONAI Label hands it over as texts (``--conf NAME VALUE``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fm3d_core.cli.server_access import check_origin, read_token
from fm3d_core.errors import SettingsError

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


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _megabytes(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 20:
        raise SettingsError(f"{name} is {text}", remedy="Give whole megabytes from 1 to 1048576")
    return int(text) << 20
