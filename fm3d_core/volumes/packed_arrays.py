"""Arrays on disk from which a box is read without the rest: blosc2 in chunks.

Measured on CT with real noise: zstd 1 packs as well as zstd 5 at a tenth of its time, a third better than lz4; byte
shuffle beats bit shuffle by up to a quarter. A block is the least that is unpacked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

CHUNK, BLOCK = (64, 64, 32), (32, 32, 16)
# what blosc2 raises for damaged files, depending on where the damage is
UNREADABLE = (OSError, RuntimeError, ValueError, IndexError, AttributeError, KeyError, TypeError)


def pack(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a .b2nd file of (..., X, Y, Z); made in memory, so that a full disk is an ordinary error."""
    import blosc2

    chunk = tuple(min(side, size) for side, size in zip(CHUNK, array.shape[-3:], strict=True))
    block = tuple(min(side, size) for side, size in zip(BLOCK, chunk, strict=True))
    leading = (1,) * (array.ndim - 3)
    packing = {
        "codec": blosc2.Codec.ZSTD,
        "clevel": 1,
        "filters": [blosc2.Filter.SHUFFLE],
        "typesize": array.dtype.itemsize,
        "nthreads": 1,
    }
    packed: bytes = blosc2.asarray(
        array, chunks=(*leading, *chunk), blocks=(*leading, *block), cparams=packing
    ).to_cframe()
    return packed


def open_packed(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """A file of :func:`pack`; slices of it are arrays.

    Raises:
        OSError, ValueError, RuntimeError and the like (:data:`UNREADABLE`): missing, damaged, or not of that shape.
    """
    import blosc2

    if not path.is_file():  # blosc2's own message for it is long
        raise FileNotFoundError("the file is missing")
    # one thread: parallel are the workers
    array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    if array.shape != shape or array.dtype != dtype:
        raise ValueError("its shape or type is not that of the volume")
    return array
