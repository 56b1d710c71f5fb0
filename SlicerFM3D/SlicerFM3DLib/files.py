"""Files on their way between scene and server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slicer


@contextmanager
def temporaryFolder() -> Iterator[Path]:
    """A folder for files on their way; the session removes it, unless the way is not even begun."""
    folder = Path(tempfile.mkdtemp(prefix="fm3d-", dir=slicer.app.temporaryPath))
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
