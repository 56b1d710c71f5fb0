"""Downloading a public weight file from where its authors keep it: Hugging Face, or a plain address."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fm3d_core.errors import WeightsError
from fm3d_core.files import storage_error
from fm3d_core.models.weights.catalogue import HubSource, WeightEntry
from fm3d_core.models.weights.store import weights_folder
from fm3d_core.progress import ProgressCallback, StageClock, ignore_progress

TIMEOUT = 30.0  # seconds without a byte


@contextmanager
def downloaded(entry: WeightEntry, *, progress: ProgressCallback = ignore_progress) -> Iterator[Path]:
    """The file of ``entry`` while the context lasts, under its published name.

    From Hugging Face it stays in that library's own cache, from elsewhere it is removed afterwards. ``HF_HUB_OFFLINE``
    forbids both, ``HF_ENDPOINT`` names another Hub.

    Raises:
        WeightsError: it must be downloaded by hand, access is not granted, no connection, not found, not complete.
        StorageError: no space for it.
    """
    if entry.source is None:
        raise WeightsError(
            f"{entry.id} cannot be downloaded by a program",
            remedy=f"Get the file from {entry.page} and run fm3d weights import FILE --as {entry.id}",
        )
    if isinstance(entry.source, HubSource):
        yield _from_hub(entry, entry.source)
        return
    folder = weights_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".downloading-", dir=folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        yield _from_address(entry, entry.source, temporary, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _from_hub(entry: WeightEntry, source: HubSource) -> Path:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise WeightsError(
            f"{entry.id} lives on Hugging Face, whose program is not installed",
            remedy=f"pip install huggingface_hub, or download it from {entry.page} and import it",
        ) from error
    try:
        path = hf_hub_download(
            source.repo,
            source.file,
            revision=source.revision,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            local_files_only=_offline(),
            library_name="fm3d",
        )
    except errors.GatedRepoError as error:
        steps = entry.gated or f"Ask for access on {entry.page}, then run hf auth login and fetch again"
        raise WeightsError(f"access to {source.repo} was not granted to this computer", remedy=steps) from error
    except errors.LocalEntryNotFoundError as error:
        raise _not_reached(entry, "Hugging Face cannot be reached and the file is not in its cache") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise WeightsError(
            f"{source.file} of {source.repo} at {source.revision} was not found",
            remedy=f"Look at {entry.page}, download the file and run fm3d weights import FILE --as {entry.id}",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise storage_error(source.file, error) from error
        raise _not_reached(entry, f"the download failed ({type(error).__name__})") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the library below; no OSError
        raise _not_reached(entry, f"the download failed ({type(error).__name__})") from error
    return Path(path)


def _from_address(entry: WeightEntry, address: str, folder: Path, progress: ProgressCallback) -> Path:
    if _offline():
        raise _not_reached(entry, "HF_HUB_OFFLINE forbids downloads")
    path = folder / Path(urllib.parse.urlsplit(address).path).name
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            done = _copy(answer, path, StageClock("downloading", size, progress))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _not_reached(entry, f"the download failed ({error})") from error
    except OSError as error:
        raise storage_error(path, error) from error
    if size and done != size:
        raise _not_reached(entry, f"the download ended after {done} of {size} bytes")
    return path


def _copy(answer: http.client.HTTPResponse, path: Path, clock: StageClock) -> int:
    done = 0
    with path.open("wb") as file:
        while block := answer.read(1 << 20):
            file.write(block)
            done += len(block)
            clock.report(done)
    return done


def _not_reached(entry: WeightEntry, problem: str) -> WeightsError:
    return WeightsError(
        f"{entry.id}: {problem}",
        remedy=f"Try again with a connection, or download it from {entry.page} elsewhere and run "
        f"fm3d weights import FILE --as {entry.id}",
    )


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
