"""What an infer task gives back: a file for the client, and figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """One answer.

    Attributes:
        file: a temporary file that belongs to the answer; None: there are figures only.
        params: what a client needs to read it.
    """

    file: Path | None
    params: dict[str, Any]

    def discard(self) -> None:
        """Remove the file; nobody needs it any more."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def new_file(prefix: str, suffix: str, write: Callable[[Path], Any]) -> Path:
    """A temporary file with what ``write`` puts into it; none is left behind if that fails."""
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=suffix)
    os.close(descriptor)
    try:
        write(Path(name))
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)
