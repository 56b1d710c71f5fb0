"""Images as read, kept for a while: a click must not wait for a file that was read a second ago."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from MonaiLabelApp.lib.errors import told_as

if TYPE_CHECKING:
    from fm3d_core.volumes import Volume

KEPT_BYTES = 512 << 20


@dataclass(frozen=True)
class ReadImage:
    """An image in memory.

    Attributes:
        id: of the image.
        volume: as read.
        stamp: changes when the file does.
        warnings: what the reader had to say.
    """

    id: str
    volume: Volume
    stamp: tuple[int, int]
    warnings: tuple[str, ...]


class ImageCache:
    """The images read last, up to a sum of bytes."""

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit, self._lock = limit_bytes, threading.Lock()
        self._kept: OrderedDict[str, ReadImage] = OrderedDict()

    def read(self, image_id: str, path: Path) -> ReadImage:
        """An image, from memory if its file is the one that was read.

        Raises:
            VolumeError: it cannot be used.
        """
        from fm3d_core.volumes import read_volume

        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
        with self._lock:
            kept = self._kept.get(image_id)
            if kept is not None and kept.stamp == stamp:
                self._kept.move_to_end(image_id)
                return kept
        with told_as(image_id), warnings_of_core() as warnings:
            volume = read_volume(path, allow_nonfinite=True)
        read = ReadImage(image_id, volume, stamp, tuple(text.replace(str(path), image_id) for text in warnings))
        with self._lock:
            self._kept[image_id] = read
            self._kept.move_to_end(image_id)
            while len(self._kept) > 1 and sum(one.volume.array.nbytes for one in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
        return read


@contextmanager
def warnings_of_core() -> Iterator[list[str]]:
    """Collects what fm3d_core warns of in the block, on this thread, for the client to show."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    collector, core = Collector(logging.WARNING), logging.getLogger("fm3d_core")
    core.addHandler(collector)
    try:
        yield messages
    finally:
        core.removeHandler(collector)
