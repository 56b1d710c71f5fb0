"""Where blocking work runs: a few threads for each kind of it, so that the event loop always answers at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from fm3d_core.progress import ShouldStop
from MonaiLabelApp.lib.errors import Busy, ClientGone

T = TypeVar("T")
Work = Callable[[ShouldStop], T]
SECONDS_BETWEEN_LOOKS = 0.1  # whether the client is still there


class Lane:
    """Threads that do one kind of work, and a waiting line of bounded length.

    Args:
        name: of the threads.
        workers: how many run at once.
        waiting: how many more may wait.
        niceness: how far below the event loop the threads are in the processor's order; their PyTorch threads inherit
            it. On systems that do not know it for threads it has no effect.
    """

    def __init__(self, name: str, workers: int, waiting: int, niceness: int = 0) -> None:
        self._name, self._room = name, threading.BoundedSemaphore(workers + waiting)
        self._pool = ThreadPoolExecutor(workers, name, initializer=_step_back, initargs=(niceness,))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue ``work``.

        Raises:
            Busy: the waiting line is full.
        """
        if not self._room.acquire(blocking=False):
            raise Busy(f"the server has too much {self._name} to do", remedy="Try again in a moment")
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._room.release())
        return future


class Lanes:
    """All lanes of the server.

    Attributes:
        looking: short questions (info, lists).
        files: uploads and downloads, which are checked voxel by voxel.
        segmenting: automatic segmentation, as many at once as the processor carries.
        clicks: interactive segmentation, which must not wait behind a whole volume.
        background: comparisons and other jobs of minutes.
        scoring: of the images, which waits while a training runs.
    """

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self.looking = Lane("looking", 4, 256)
        self.files = Lane("files", 4, 64, 1)
        self.segmenting = Lane("segmenting", min(max(cores // 4, 1), 4), 32, 2)
        self.clicks = Lane("clicks", 1, 32, 1)
        self.background = Lane("background", 1, 32, 6)
        self.scoring = Lane("scoring", 1, 8, 6)


async def finish(request: Request, lane: Lane, work: Work[T], discard: Callable[[T], Any] | None = None) -> T:
    """Run ``work`` in ``lane`` while the event loop goes on; end it when the client goes away.

    Args:
        request: its body must have been read.
        lane: where to run.
        work: receives the question whether to stop.
        discard: what to do with a result that nobody waits for any more.

    Raises:
        Busy: the lane is full.
        ClientGone: nobody waits for the answer.
    """
    gone = threading.Event()
    future = lane.submit(lambda: work(gone.is_set))
    waiting = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait([waiting], timeout=SECONDS_BETWEEN_LOOKS))[0]:
            if await request.is_disconnected():
                raise ClientGone()
    except BaseException:
        gone.set()
        future.cancel()
        if discard is not None:
            future.add_done_callback(lambda done: _discard(done, discard))
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, so that it is not logged
        raise
    return waiting.result()


def _discard(done: Future[T], discard: Callable[[T], Any]) -> None:
    if not done.cancelled() and done.exception() is None:
        discard(done.result())


def _step_back(niceness: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        priority = os.getpriority(os.PRIO_PROCESS, 0) + niceness
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(priority, 19))
