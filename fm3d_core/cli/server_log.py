"""What a server's process writes, and what of it tells a user why the process has ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def telling_line(log: Path) -> str:
    """The last exception of a log in words, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()[-200:] if line.strip()]
    lines = [re.sub(r"^(\[[^]]*\] ){4}\([^)]*\) - ", "", line) for line in lines]
    for line in reversed(lines):
        found = re.match(r"(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception)): (.+)", line)
        if found:
            return found[2] if found[1].endswith("Error") and "fm3d_core" in line else f"{found[1]}: {found[2]}"
    telling = [line for line in lines if "startup failed" not in line]
    return telling[-1] if telling else "it wrote nothing"


def logging_settings(file: Path) -> Mapping[str, Any]:
    """Python logging as data: all to a file that is turned over, warnings and worse also to the process's output."""
    handlers = ["console", "file"]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "[%(asctime)s] [%(process)s] [%(threadName)s] [%(levelname)s] (%(name)s) - %(message)s"}
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"},
            "file": {
                "class": "logging.handlers.RotatingFileHandler",
                "formatter": "line",
                "filename": str(file),
                "maxBytes": 10_485_760,
                "backupCount": 5,
                "encoding": "utf-8",
            },
        },
        "root": {"level": "INFO", "handlers": handlers},
        "loggers": {name: {"level": "WARNING", "propagate": True} for name in ("uvicorn.access", "filelock")},
    }
