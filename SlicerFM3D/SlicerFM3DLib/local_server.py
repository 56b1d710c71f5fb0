"""A server on this computer, run as a process of its own for as long as the user wants. No Qt, no MRML."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .cancellation import Cancellation
from .errors import Cancelled, ClientError
from .translation import tr as _

DEFAULT_COMMAND = "fm3d"
ADDRESS = re.compile(r"answers at (https?://\S+)")  # what fm3d serve prints when it is ready


def arguments(command: str, folder: str) -> list[str]:
    """What to run.

    :param command: how FM3D is called: a program's name, its path, or a program with arguments.
    :param folder: of the images; the server creates it if it is not there.
    :raises ClientError: if the command cannot be understood.
    """
    program = [command] if Path(command).is_file() else _split(command)
    if not program:
        raise ClientError(_("Say how FM3D is called on this computer, for example: fm3d"))
    return [*program, "serve", folder, "--port", "0"]


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    cancellation: Cancellation,
    report: Callable[[str], None],
) -> None:
    """Run the server until it ends or is cancelled; ``report(address)`` as soon as it answers.

    :raises ClientError: if it cannot be started or ends by itself with an error.
    :raises Cancelled: when it was cancelled and has ended.
    """
    cancellation.check()
    try:
        process = subprocess.Popen(
            command,
            env={**environment, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "500"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        message = _("'{command}' cannot be run ({reason}). Install FM3D, or give the full path of its program fm3d.")
        raise ClientError(message.format(command=command[0], reason=error.strerror or error)) from error
    lines: deque[str] = deque(maxlen=50)
    try:
        with cancellation.interrupting(lambda: _end(process)):
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.strip())
                found = ADDRESS.search(line)
                if found:
                    report(found[1])
            code = process.wait()
    except Cancelled:
        _end(process)
        raise
    cancellation.check()
    if code:
        told = next((line for line in reversed(lines) if line), _("it said nothing"))
        raise ClientError(_("The server has ended: {reason}").format(reason=told))


def _split(command: str) -> list[str]:
    try:
        return [part.strip('"') for part in shlex.split(command, posix=os.name != "nt")]
    except ValueError as error:
        raise ClientError(_("The command has an unclosed quotation mark.")) from error


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the server to end, and with it what it has started; returns at once."""
    with suppress(OSError):
        if os.name == "nt":  # there, ending a process leaves its children
            subprocess.Popen(["taskkill", "/T", "/F", "/PID", str(process.pid)])
        else:
            process.terminate()
