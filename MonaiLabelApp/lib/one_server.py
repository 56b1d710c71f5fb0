"""One server for a folder: two would write each other's index away and start each other's trainings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fm3d_core.errors import ServerError

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".server.lock"


def hold(folder: Path, held: list[FileLock]) -> None:
    """Take a folder for this process, until it ends however that may be.

    Args:
        folder: made if absent.
        held: keeps the lock, which would be given back with its last reference.

    Raises:
        ServerError: another server has it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ServerError(
            "another server works in this folder",
            path=folder,
            remedy="Stop it, or choose another folder or --workspace",
        ) from error
    except NotImplementedError:  # a file system without locks
        return
    held.append(lock)
