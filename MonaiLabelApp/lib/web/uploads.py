"""Files that come in: each gets a name of ours, because the client's own may tell who the patient is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from fm3d_core.errors import SettingsError
from fm3d_core.files import storage_error
from fm3d_core.volumes.names import image_suffix


@contextmanager
def received(upload: UploadFile, suffix: str | None = None) -> Iterator[Path]:
    """The upload as a file for the block.

    Args:
        upload: what came.
        suffix: of the file; None: the image suffix of the client's file name, or its last suffix if that is no image's.

    Raises:
        StorageError: the disk is full.
    """
    name = upload.filename or ""
    suffix = suffix or image_suffix(name) or Path(name).suffix[-8:].lower() or (".nii.gz" if not name else "")
    descriptor, path = tempfile.mkstemp(prefix="upload-", suffix=_plain(suffix))
    try:
        try:
            with os.fdopen(descriptor, "wb") as target:
                shutil.copyfileobj(upload.file, target, 1 << 20)
        except OSError as error:
            raise storage_error(tempfile.gettempdir(), error) from error
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def json_object(text: str, what: str = "the parameters") -> dict[str, Any]:
    """``text`` as a JSON object; empty text is an empty one.

    Raises:
        SettingsError: it is none.
    """
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise SettingsError(f"{what} are not JSON", remedy='Send for example {"a": 1}') from error
    if not isinstance(found, dict):
        raise SettingsError(f"{what} are no JSON object", remedy='Send for example {"a": 1}')
    return found


def _plain(suffix: str) -> str:
    return "".join(letter for letter in suffix if letter.isalnum() or letter == ".")
