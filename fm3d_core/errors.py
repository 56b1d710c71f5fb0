"""The errors a user can cause: what is wrong, in which file, and what to do about it.

The command line prints one line and exits with ``FM3DError.exit_code``; the server answers with
``FM3DError.http_status`` and the same line; Slicer shows it. A bug stays an ordinary exception.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class FM3DError(Exception):
    """A mistake in the input, said in one line: ``[FILE: ]PROBLEM. REMEDY``.

    Args:
        problem: what is wrong, without a full stop.
        remedy: what the user can do, as a sentence.
        path: the file or folder concerned, if there is one.
    """

    exit_code: ClassVar[int] = 2
    http_status: ClassVar[int] = 422

    def __init__(self, problem: str, *, remedy: str, path: str | Path | None = None) -> None:
        self.problem, self.remedy, self.path = problem, remedy, path
        place = f"{path}: " if path is not None else ""
        super().__init__(" ".join(f"{place}{problem.rstrip('.')}. {remedy.rstrip('.')}.".split()))

    def __reduce__(self) -> tuple[Any, ...]:
        # so that an error met in a worker process reaches the caller as it was
        return _restored, (type(self), self.problem, self.remedy, self.path)


class VolumeError(FM3DError):
    """An image that cannot be read or is not a usable 3D volume."""


class LabelError(FM3DError):
    """A label map that does not fit its image or its names."""


class CaseError(FM3DError):
    """A set of cases that cannot be used: too few, unpaired, unknown."""


class SettingsError(FM3DError):
    """An option or request with an unknown name or an impossible value."""


class WeightsError(FM3DError):
    """A weight file that cannot be read or does not belong to the model."""


class AdapterError(FM3DError):
    """An adapter that is missing, damaged or made for another backbone."""


class StorageError(FM3DError):
    """A folder that cannot be written: disk full, no permission."""

    http_status = 507


class MemoryShortageError(FM3DError):
    """Memory that is not enough, whatever was saved."""

    http_status = 507


class ServerError(FM3DError):
    """A server that cannot be started or reached."""


class Stopped(FM3DError):
    """The user cancelled; nothing half-done was kept."""

    http_status = 409

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was cancelled", remedy="Nothing was changed; start it again when you like")


def _restored(kind: type[FM3DError], problem: str, remedy: str, path: str | Path | None) -> FM3DError:
    error = kind.__new__(kind)
    FM3DError.__init__(error, problem, remedy=remedy, path=path)
    return error
