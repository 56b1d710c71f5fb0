"""``fm3d serve``: the server for the lab, in one command."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from fm3d_core.cli.server_process import LOOPBACK, ServerProcess, check_label_names, terminate_as_interrupt
from fm3d_core.errors import SettingsError
from fm3d_core.files import home_folder


@dataclass(frozen=True)
class ServeSettings:
    """Serve a folder of images to Slicer: segment, label, train.

    Attributes:
        studies: the folder of images; uploads and labels are kept in it.
        labels: names of the structures, in the order of their voxel values; empty: those of the active adapter, or of
            the submitted labels.
        port: where clients find the server; 0 chooses a free one.
        host: an address of this machine only: beyond it the server needs authentication, which it has not yet.
        workspace: the server's own folder (logs, progress); default: server in FM3D's folder, $FM3D_HOME or ~/.fm3d.
        adapters: the adapter store; default: adapters in the studies folder, beside the labels it learns from.

    Raises:
        SettingsError: an impossible value.
    """

    studies: Path
    labels: tuple[str, ...] = ()
    port: int = 8000
    host: str = LOOPBACK
    workspace: Path | None = None
    adapters: Path | None = None

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise SettingsError(
                f"host {self.host} can be reached from other machines, and the server does not ask who is there",
                remedy=f"Use --host {LOOPBACK}; from elsewhere, go through ssh -L {self.port}:{LOOPBACK}:{self.port}",
            )
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
    server = ServerProcess(
        settings.studies,
        settings.workspace or home_folder() / "server",
        labels=settings.labels,
        host=settings.host,
        port=settings.port,
        adapters=settings.adapters or settings.studies / "adapters",
    )
    with terminate_as_interrupt():
        try:
            with console.status("Starting the server (about 10 seconds)"):
                server.start()
            console.print(f"The server answers at {server.address} (images: {server.studies})", soft_wrap=True)
            console.print(f"In Slicer, connect FM3D to {server.address}. Stop it with Ctrl-C.", soft_wrap=True)
            server.wait()
        except KeyboardInterrupt:
            console.print("Stopping the server")
        finally:
            server.stop()


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
