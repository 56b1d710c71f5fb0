"""Building a crop store from a list: parallel, resumable at any point, and no bad file ends it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from fm3d_core.errors import CaseError, SettingsError, Stopped, StorageError, VolumeError
from fm3d_core.files import atomic_file
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes.crop_preparation import store_volume
from fm3d_core.volumes.crop_store import (
    FORMAT,
    INDEX_FILE,
    LEFT_OUT_FILE,
    SETTINGS_FILE,
    CropStoreSettings,
    StoredVolume,
    read_settings,
)
from fm3d_core.volumes.volume_list import LeftOut, ListedVolume, write_left_out

# Temporary folders of a killed run are removed when they are older, in seconds; younger ones may be in use.
STALE_AFTER = 3600.0
_Result = tuple[StoredVolume, bool] | LeftOut


@dataclass(frozen=True)
class BuildReport:
    """What a run of :func:`build_crop_store` did.

    Attributes:
        volumes: all volumes of the list that are in the store now.
        kept: how many of them were there before.
        left_out: what could not be used, with the reason.
    """

    volumes: tuple[StoredVolume, ...]
    kept: int
    left_out: tuple[LeftOut, ...]


def build_crop_store(
    listed: Sequence[ListedVolume],
    folder: str | Path,
    settings: CropStoreSettings | None = None,
    *,
    workers: int | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> BuildReport:
    """Prepare every volume of a list once and write the store's index.

    Volumes are known by their content: what is there already is not made again, whatever it is called now, and equal
    files are stored once. After an interruption the same call goes on where it stopped.

    Args:
        settings: None takes those of an existing store, or the default ones.
        workers: processes; None for one per processor. 1 works in this process. With more, a script needs Python's
            usual ``if __name__ == "__main__":``, because they are spawned.

    Raises:
        SettingsError: the folder holds a store made with other settings.
        CaseError: no volume could be used; left_out.json says why.
        StorageError: disk full, no permission; what is complete stays.
        Stopped: ``should_stop`` said so; what is complete stays.
    """
    folder = Path(folder)
    settings = _agree_on_settings(folder, settings)
    _remove_stale(folder)
    stored: dict[str, StoredVolume] = {}
    left_out: list[LeftOut] = []
    kept = 0
    clock = StageClock("caching volumes", len(listed), progress)
    workers = min(workers or os.cpu_count() or 1, max(1, len(listed)))
    results = _one_by_one(listed, folder, settings) if workers == 1 else _in_parallel(listed, folder, settings, workers)
    try:
        for done, (item, result) in enumerate(results, start=1):
            if isinstance(result, LeftOut):
                left_out.append(result)
            elif (twin := stored.get(result[0].sha256)) is not None:
                left_out.append(LeftOut(item.path, f"has the same content as another file: {twin.source}"))
            else:
                stored[result[0].sha256] = result[0]
                kept += result[1]
            clock.report(done)
            if should_stop():
                raise Stopped("Caching")
    finally:
        results.close()
        _write_index(folder, stored, left_out)
    if not stored:
        raise CaseError(
            f"no volume of the list could be used ({len(left_out)} left out)",
            path=folder / LEFT_OUT_FILE,
            remedy="This file says why",
        )
    return BuildReport(tuple(stored.values()), kept, tuple(left_out))


def _write_index(folder: Path, stored: dict[str, StoredVolume], left_out: Sequence[LeftOut]) -> None:
    """All volumes in order of hash, so that an index does not depend on which worker was first."""
    earlier = {}
    if (folder / INDEX_FILE).is_file():
        rows = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        earlier = {row["sha256"]: row for row in rows}
    rows = earlier | {key: volume.to_dict() for key, volume in stored.items()}
    lines = ",\n".join(json.dumps(rows[key], ensure_ascii=False) for key in sorted(rows))
    with atomic_file(folder / INDEX_FILE) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    write_left_out(folder / LEFT_OUT_FILE, sorted(left_out, key=lambda item: item.path))


def _agree_on_settings(folder: Path, settings: CropStoreSettings | None) -> CropStoreSettings:
    if not (folder / SETTINGS_FILE).exists():
        settings = settings or CropStoreSettings()
        with atomic_file(folder / SETTINGS_FILE) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT} | settings.to_dict(), indent=1), encoding="utf-8")
        return settings
    existing = read_settings(folder)
    if settings is not None and settings != existing:
        raise SettingsError(
            f"holds a crop store made with other settings ({existing})",
            path=folder,
            remedy="Use the same settings or another folder",
        )
    return existing


def _remove_stale(folder: Path) -> None:
    for temporary in (folder / "volumes").glob("*/.writing-*"):
        if time.time() - temporary.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(temporary, ignore_errors=True)


def _attempt(item: ListedVolume, folder: Path, settings: CropStoreSettings) -> _Result:
    """Store one volume; what is wrong with it becomes a line, what is wrong with the disk stays an error."""
    try:
        return store_volume(item, folder, settings)
    except VolumeError as error:
        return LeftOut(item.path, error.problem)
    except MemoryError:
        return LeftOut(item.path, "needs more memory than there is")
    except StorageError:
        raise
    except OSError as error:
        return LeftOut(item.path, f"cannot be read ({error.strerror or error})")


def _one_by_one(
    listed: Sequence[ListedVolume], folder: Path, settings: CropStoreSettings
) -> Generator[tuple[ListedVolume, _Result], None, None]:
    for item in listed:
        yield item, _attempt(item, folder, settings)


def _in_parallel(
    listed: Sequence[ListedVolume], folder: Path, settings: CropStoreSettings, workers: int
) -> Generator[tuple[ListedVolume, _Result], None, None]:
    """Results as they come. A worker that dies (out of memory) breaks its pool: what was in work is tried alone."""
    remaining = list(reversed(listed))
    while remaining:
        waiting: dict[Future[_Result], ListedVolume] = {}
        pool = _pool(workers)
        try:
            while remaining or waiting:
                while remaining and len(waiting) < 2 * workers:  # few in flight: a broken pool costs little
                    future = pool.submit(_attempt, remaining[-1], folder, settings)
                    waiting[future] = remaining.pop()
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    result = future.result()
                    yield waiting.pop(future), result
        except BrokenProcessPool:
            suspects = list(waiting.values())
        else:
            suspects = []
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for item in suspects:
            yield item, _alone(item, folder, settings)


def _alone(item: ListedVolume, folder: Path, settings: CropStoreSettings) -> _Result:
    with _pool(1) as pool:
        try:
            return pool.submit(_attempt, item, folder, settings).result()
        except BrokenProcessPool:
            return LeftOut(item.path, "ended the process that read it (out of memory?)")


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawned, not forked: the caller may have threads
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
