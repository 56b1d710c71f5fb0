"""The ``fm3d`` command, run in this process."""

from __future__ import annotations

from fm3d_core.cli.main import main


def run(*arguments: object) -> int:
    """The exit code of ``fm3d ARGUMENTS``."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0
