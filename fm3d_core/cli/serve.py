"""``fm3d serve``: the server for the lab, in one command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fm3d_core.cli.server_access import check_certificate, check_origin, is_loopback, read_token
from fm3d_core.cli.server_process import (
    LOOPBACK,
    ServerProcess,
    check_label_names,
    is_web_address,
    terminate_as_interrupt,
)
from fm3d_core.errors import SettingsError
from fm3d_core.files import home_folder


@dataclass(frozen=True)
class ServeSettings:
    """Serve a folder of images to Slicer: segment, label, train.

    Attributes:
        studies: the folder of images; uploads and labels are kept in it. Or the address of a DICOMweb archive, such as
            http://127.0.0.1:8042/dicom-web: its CT and MR series are offered, final labels go there as DICOM SEG.
        labels: names of the structures, in the order of their voxel values; empty: those of the active adapter, or of
            the submitted labels.
        port: where clients find the server; 0 chooses a free one.
        host: where to listen; beyond this machine (0.0.0.0 for all of its addresses) only with a token.
        token_file: file whose first line every client must send (Authorization: Bearer TOKEN). Make one:
            python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token; chmod 600 token
        certificate, key: files (PEM) with which the server speaks HTTPS; without them HTTP, which shows the token to
            whoever listens in on the network.
        origins: web pages, such as https://viewer.hospital.example, whose requests are taken; default: none.
        upload_limit: largest upload in MB.
        training_memory: most memory of a training in MB; default: four fifths of what is free when it starts.
        workspace: the server's own folder (logs, progress); default: server in FM3D's folder, $FM3D_HOME or ~/.fm3d.
        adapters: the adapter store; default: adapters in the studies folder, beside the labels it learns from; with an
            archive, in the workspace.

    Raises:
        SettingsError: an impossible value.
    """

    studies: tyro.conf.Positional[str]
    labels: tuple[str, ...] = ()
    port: int = 8000
    host: str = LOOPBACK
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    origins: tuple[str, ...] = ()
    upload_limit: int = 2048
    training_memory: int | None = None
    workspace: Path | None = None
    adapters: Path | None = None

    def __post_init__(self) -> None:
        if self.token_file is not None:
            read_token(self.token_file)
        elif not is_loopback(self.host):
            raise SettingsError(
                f"host {self.host} can be reached from other machines, and without a token anybody may ask",
                remedy=f"Give --token-file FILE, or use ssh -L {self.port}:{LOOPBACK}:{self.port} from elsewhere",
            )
        check_certificate(self.certificate, self.key)
        for origin in self.origins:
            check_origin(origin)
        for name, value in (("upload-limit", self.upload_limit), ("training-memory", self.training_memory)):
            if value is not None and not 1 <= value <= 1 << 20:
                raise SettingsError(f"{name} is {value}", remedy="Give MB between 1 and 1048576")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port is {self.port}", remedy="Choose one between 1024 and 65535, or 0 for a free one")
        check_label_names(self.labels)

    def run(self) -> None:
        """Serve."""
        run_serve(self)


def run_serve(settings: ServeSettings) -> None:
    """Serve until Ctrl-C or SIGTERM, then stop the server and a training in order.

    Raises:
        FM3DError: the server cannot be started or ended by itself.
    """
    from rich.console import Console

    console = Console()
    beside = None if is_web_address(settings.studies) else Path(settings.studies) / "adapters"
    server = ServerProcess(
        settings.studies,
        settings.workspace or home_folder() / "server",
        labels=settings.labels,
        host=settings.host,
        port=settings.port,
        adapters=settings.adapters or beside,
        token_file=settings.token_file,
        origins=settings.origins,
        certificate=settings.certificate,
        key=settings.key,
        upload_mb=settings.upload_limit,
        training_mb=settings.training_memory,
    )
    with terminate_as_interrupt():
        try:
            with console.status("Starting the server (about 10 seconds)"):
                server.start()
            console.print(f"The server answers at {server.address} (images: {server.studies})", soft_wrap=True)
            if settings.token_file is not None:
                console.print(f"Clients need the token in {settings.token_file}", soft_wrap=True)
            console.print(f"In Slicer, connect FM3D to {server.address}. Stop it with Ctrl-C.", soft_wrap=True)
            server.wait()
        except KeyboardInterrupt:
            console.print("Stopping the server")
        finally:
            server.stop()
