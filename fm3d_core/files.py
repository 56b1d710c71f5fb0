"""Writing that never leaves half a file: temporary name, fsync, rename. And the folder FM3D keeps its things in."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fm3d_core.errors import StorageError


def home_folder() -> Path:
    """The folder for adapters, caches and server work: ``$FM3D_HOME``, else ``~/.fm3d``. Not created here."""
    return Path(os.environ.get("FM3D_HOME") or Path.home() / ".fm3d")


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is synced and renamed to ``path``, else removed.

    The temporary name keeps all suffixes of ``path``, because writers choose their format by them.

    Raises:
        StorageError: disk full, no permission, or another failure of the file system.
    """
    path = Path(path)
    folder = _temporary_folder(path)
    try:
        with _explained(path):
            yield folder / path.name
            _sync(folder / path.name)
            (folder / path.name).replace(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success its files are synced and it is renamed to ``path``.

    Raises:
        FileExistsError: ``path`` already exists as a folder with content (nothing is ever overwritten).
        StorageError: disk full, no permission, or another failure of the file system.
    """
    path = Path(path)
    folder = _temporary_folder(path)
    try:
        with _explained(path):
            yield folder
            for file in folder.rglob("*"):
                _sync(file)
            _sync(folder)
            _rename_to_new(folder, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder(path: Path) -> Path:
    """A new, empty folder beside ``path``, on the same file system."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise storage_error(path, error) from error


def _rename_to_new(folder: Path, path: Path) -> None:
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(errno.EEXIST, "already exists", str(path)) from error
        raise
    path.chmod(0o755)  # mkdtemp made it private


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the file system's refusals into a StorageError that names the folder."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: str | Path, error: OSError) -> StorageError:
    """The StorageError that explains ``error`` met while writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            "cannot be written: the disk is full",
            path=path,
            remedy="Free some space or choose another folder; nothing half-written was kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            "cannot be written: no permission",
            path=path,
            remedy="Choose a folder you may write to (for FM3D's own files: set FM3D_HOME)",
        )
    return StorageError(f"cannot be written ({error.strerror or error})", path=path, remedy="Choose another folder")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
