"""``fm3d doctor``: what this computer has, and what is missing for FM3D to work well."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import tyro

from fm3d_core.errors import SettingsError
from fm3d_core.files import home_folder

GIGABYTE = 1024**3
CORE, SERVER = ("torch", "monai", "peft", "safetensors", "nibabel", "SimpleITK", "pydicom", "numpy"), ("monailabel",)


@dataclass(frozen=True)
class Finding:
    """One line of the report: a subject, what was found, and a remedy if something is missing."""

    subject: str
    found: str
    remedy: str = ""
    severe: bool = False


@dataclass(frozen=True)
class Doctor:
    """Check the installation: packages, processor, GPU, memory, folders, port. Exits with 2 if FM3D cannot work.

    Attributes:
        port: the port the server would use.
        folder: a further folder FM3D should be able to write to.
    """

    port: int = 8000
    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None

    def run(self) -> None:
        """Print the report."""
        from rich.console import Console
        from rich.table import Table

        console = Console()
        findings = list(self.examine())
        table = Table(show_header=False, box=None)
        for finding in findings:
            mark = "[red]missing[/red]" if finding.severe else "[yellow]note[/yellow]" if finding.remedy else "ok"
            table.add_row(mark, finding.subject, finding.found + (f" - {finding.remedy}" if finding.remedy else ""))
        console.print(table)
        severe = [finding for finding in findings if finding.severe]
        if severe:
            raise SettingsError(
                f"FM3D cannot work here: {', '.join(finding.subject for finding in severe)}",
                remedy="Do what the lines marked missing say",
            )

    def examine(self) -> Iterator[Finding]:
        """All findings; each check stands for itself."""
        checks: list[Callable[[], Iterator[Finding]]] = [_packages, _processor, _gpu, _memory]
        for check in checks:
            yield from check()
        for folder in (home_folder(), Path(tempfile.gettempdir()), *([self.folder] if self.folder else [])):
            yield _folder(folder)
        yield _port(self.port)


def _packages() -> Iterator[Finding]:
    yield Finding("Python", sys.version.split()[0])
    for name in CORE + SERVER:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            needed = name in CORE
            remedy = "pip install fm3d" if needed else 'needed for the server only: pip install "fm3d[server]"'
            yield Finding(name, "not installed", remedy, severe=needed)


def _processor() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return  # reported among the packages
    from fm3d_core.devices import cpu_has_bfloat16

    found = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if cpu_has_bfloat16():
        yield Finding("processor", f"{found}, bfloat16")
    else:
        yield Finding("processor", found, "no bfloat16: training on the CPU takes about twice as long")


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        build = "built for CPU" if torch.version.cuda is None else f"CUDA {torch.version.cuda} finds no device"
        yield Finding("GPU", f"none ({build})", "the CPU is used; the README says how to get the GPU build")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("GPU", f"{properties.name}, {properties.total_memory / GIGABYTE:.0f} GB")


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB free"
    yield Finding("memory", found, "" if memory.available > 4 * GIGABYTE else "training wants 4 GB: close programs")


def _folder(folder: Path) -> Finding:
    import psutil

    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            str(folder), f"cannot be written ({error.strerror})", "set FM3D_HOME to another folder", severe=True
        )
    free = psutil.disk_usage(str(existing)).free / GIGABYTE
    return Finding(str(folder), f"writable, {free:.0f} GB free", "" if free > 2 else "nearly full: make room")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return Finding(f"port {port}", "taken", f"another server runs there; use fm3d serve --port {port + 1}")
    return Finding(f"port {port}", "free")
