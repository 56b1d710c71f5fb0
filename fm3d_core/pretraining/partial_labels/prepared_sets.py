"""All cases of all sets in the cache: in parallel, shared between ranks, with a count of what could not be used."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from fm3d_core.errors import CaseError, FM3DError, LabelError, Stopped, StorageError, VolumeError
from fm3d_core.files import atomic_file, home_folder
from fm3d_core.pretraining.partial_labels.label_maps import LabelMaps
from fm3d_core.pretraining.partial_labels.labelled_sets import LabelledSet
from fm3d_core.pretraining.partial_labels.preparation import (
    PreparationSettings,
    PreparedCase,
    UnknownValueError,
    prepare_case,
)
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes.cases import Case, find_cases
from fm3d_core.volumes.scan import content_hash
from fm3d_core.volumes.volume_list import LeftOut

logger = logging.getLogger(__name__)

HASHES_FILE = "hashes.json"
Stamp = tuple[str, int, int]  # path, bytes, time of the last change in ns


@dataclass(frozen=True)
class PreparedSet:
    """The usable cases of a set, sorted by name."""

    labelled_set: LabelledSet
    cases: tuple[PreparedCase, ...]


@dataclass(frozen=True)
class PreparationReport:
    """All sets, and what was left out of them."""

    sets: tuple[PreparedSet, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class _Work:
    labelled_set: LabelledSet
    case: Case
    maps: LabelMaps
    settings: PreparationSettings
    root: Path
    content: str  # "" where it is not known yet


@dataclass(frozen=True)
class _Done:
    work: _Work
    content: str
    outcome: PreparedCase | LeftOut


def cache_folder() -> Path:
    """Where prepared cases are kept."""
    return home_folder() / "cache" / "partial_labels"


def prepare_sets(
    sets: Sequence[LabelledSet],
    maps: LabelMaps,
    settings: PreparationSettings,
    root: Path | None = None,
    *,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> PreparationReport:
    """Prepare every case that is not in the cache yet; what is complete stays after an interruption.

    Args:
        root: of the cache; None for :func:`cache_folder`.
        workers: processes; 0 works in this one.
        share: rank and number of processes that prepare the same sets at the same time: each begins at another case,
            and finds what the others have done.

    Raises:
        LabelError: a label value that its set's map does not know.
        CaseError: a set without a usable case.
        StorageError: disk full, no permission.
        Stopped: ``should_stop`` said so.
    """
    root = root or cache_folder()
    known = _read_hashes(root)
    work = [
        _Work(item, case, maps, settings, root, known.get(_stamp_text(case), ""))
        for item in sets
        for case in find_cases(item.folder)
    ]
    begin = len(work) * share[0] // share[1]
    work = work[begin:] + work[:begin]
    clock = StageClock("preparing labelled volumes", len(work), progress)
    done: list[_Done] = []
    results = _in_parallel(work, workers) if workers > 1 and len(work) > 1 else map(_attempt, work)
    try:
        for result in results:
            done.append(result)
            clock.report(len(done))
            if should_stop():
                raise Stopped("Preparing labelled volumes")
    finally:
        _write_hashes(root, {_stamp_text(item.work.case): item.content for item in done if item.content})
    return _report(sets, done, root)


def _report(sets: Sequence[LabelledSet], done: Sequence[_Done], root: Path) -> PreparationReport:
    prepared, left_out = [], []
    for item in sets:
        own = [result.outcome for result in done if result.work.labelled_set.name == item.name]
        cases = sorted((case for case in own if isinstance(case, PreparedCase)), key=lambda case: case.name)
        missing = sorted((case for case in own if isinstance(case, LeftOut)), key=lambda case: case.path)
        for case in missing:
            logger.warning("%s left out: %s %s", item.name, case.path, case.reason)
        if missing:
            logger.warning("%s: %d of %d cases left out", item.name, len(missing), len(own))
        if not cases:
            raise CaseError(
                f"set '{item.name}' has no usable case ({len(missing)} left out"
                + (f", the first because it {missing[0].reason})" if missing else ")"),
                path=item.folder,
                remedy="Correct its files or leave the set out",
            )
        prepared.append(PreparedSet(item, tuple(cases)))
        left_out += missing
    logger.info("%d labelled volumes of %d sets are ready in %s", sum(len(s.cases) for s in prepared), len(sets), root)
    return PreparationReport(tuple(prepared), tuple(left_out))


def _attempt(work: _Work) -> _Done:
    """Prepare one case; what is wrong with it becomes a line, what is wrong with the map or the disk stays an error."""
    content = work.content
    try:
        if not content:
            content = _content(work.case)
        case = prepare_case(work.labelled_set, work.case, work.maps, work.settings, work.root, content)
    except (UnknownValueError, StorageError):
        raise
    except (VolumeError, LabelError) as error:
        return _Done(work, content, LeftOut(Path(error.path or work.case.image), error.problem))
    except MemoryError:
        return _Done(work, content, LeftOut(work.case.image, "needs more memory than there is"))
    except OSError as error:
        return _Done(work, content, LeftOut(work.case.image, f"cannot be read ({error.strerror or error})"))
    return _Done(work, content, case)


def _in_parallel(work: Sequence[_Work], workers: int) -> Iterator[_Done]:
    # spawned, not forked: the caller may have threads
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_attempt, work)
        except BrokenProcessPool as error:
            raise CaseError(
                "a process that prepared labelled volumes ended (out of memory?)",
                remedy="Start again with fewer workers; what is prepared stays",
            ) from error
        except FM3DError:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _content(case: Case) -> str:
    return " ".join(content_hash(path)[0] for path in (case.image, case.label) if path is not None)


def _stamp_text(case: Case) -> str:
    """By what the files of a case are known again without reading them; "" where that is not possible."""
    stamps: list[Stamp] = []
    for path in (case.image, case.label):
        if path is None or not path.is_file():
            return ""  # a DICOM folder does not tell when a file in it changes
        state = path.stat()
        stamps.append((str(path.resolve()), state.st_size, state.st_mtime_ns))
    return json.dumps(stamps)


def _read_hashes(root: Path) -> dict[str, str]:
    try:
        content = json.loads((root / HASHES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # only a shortcut: they are computed again
    return {str(stamp): str(value) for stamp, value in content.items()} if isinstance(content, dict) else {}


def _write_hashes(root: Path, new: dict[str, str]) -> None:
    merged = _read_hashes(root) | {stamp: value for stamp, value in new.items() if stamp}
    with atomic_file(root / HASHES_FILE) as temporary:
        temporary.write_text(json.dumps(merged), encoding="utf-8")
