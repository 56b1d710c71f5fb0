"""What was found for prompts, kept so that a further click goes on from it and undo is at once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.prompts import Box, Prompts, Scribbles

if TYPE_CHECKING:
    from fm3d_core.inference.interactive.geodesic import Mask

MOST = 64  # results that are kept of a volume


class Results:
    """The results used last, eight voxels a byte; safe from several threads.

    Args:
        shape: (X, Y, Z) of the volume.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._kept: OrderedDict[str, npt.NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory they take, about."""
        with self._lock:
            return sum(each.nbytes for each in self._kept.values())

    def keep(self, key: str, mask: Mask) -> None:
        """Keep a result (X, Y, Z); of too many the one that was not used for the longest time goes."""
        packed = np.packbits(mask)
        with self._lock:
            self._kept[key] = packed
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def newest(self, keys: Sequence[str]) -> tuple[int, Mask | None]:
        """How many of the steps ``keys`` are done, and the result (X, Y, Z) after them; 0 and None where none is."""
        with self._lock:
            done = next((count for count in range(len(keys), 0, -1) if keys[count - 1] in self._kept), 0)
            if not done:
                return 0, None
            self._kept.move_to_end(keys[done - 1])
            packed = self._kept[keys[done - 1]]
        count = int(np.prod(self._shape))
        return done, np.unpackbits(packed, count=count).reshape(self._shape).astype(bool)


def key_of(prompts: Prompts, roi: Box | None) -> str:
    """Names prompts in their order and the region of interest."""
    told = hashlib.sha256(repr(roi).encode())
    for each in prompts.given:
        told.update(each.values.tobytes() if isinstance(each, Scribbles) else repr(each).encode())
    return told.hexdigest()
