"""What every evaluation leaves beside its figures: by what exactly they came about."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def run_record(command: Any) -> dict[str, Any]:
    """The resolved configuration of a command, versions and time, as plain data.

    Args:
        command: a dataclass of its options, as the command line made it.
    """
    from fm3d_core.adaptation.adapter import library_versions, now

    return {
        "command": f"fm3d {type(command).__name__.lower()}",
        "configuration": plain_options(command),
        "versions": {**library_versions(), "python": platform.python_version()},
        "created": now(),
    }


def plain_options(value: Any) -> Any:
    """Options as JSON can hold them: paths as text, dataclasses by their fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_options(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain_options(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_options(each) for each in value]
    return str(value) if isinstance(value, Path) else value
