"""Reading bytes with care: gzip by its magic, an exact number of bytes, checksums verified, bombs capped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fm3d_core.errors import VolumeError

GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot pack better than 1032 to 1 (zlib's technical notes), so a header that claims more lies.
LARGEST_DEFLATE_RATIO = 1032
# What may follow the voxels in a file (MGH footer, padding) before we call it a bomb.
LARGEST_TRAILER = 16 * 2**20
_CHUNK = 2**20


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, through gunzip when it starts like gzip, whatever its name says.

    Raises:
        VolumeError: no permission, or (while reading) the gzip stream is cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]  # GzipFile is a binary stream
            else:
                yield file
    except EOFError as error:
        raise truncated(path) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise damaged(path) from error
    except OSError as error:
        raise VolumeError(
            f"cannot be read ({error.strerror or error})", path=path, remedy="Check that it exists and may be read"
        ) from error


def read_frame(path: Path, offset: int, frame_bytes: int, expected_bytes: int) -> bytearray:
    """Read ``frame_bytes`` at ``offset`` of the (unpacked) file and go through the rest of it for its checksum.

    Args:
        expected_bytes: how long the unpacked file must be at least, by its header.

    Raises:
        VolumeError: the file is shorter than its header says, damaged, or very much longer.
    """
    require_length(path, expected_bytes)
    with open_stream(path) as stream:
        stream.seek(offset)
        content = bytearray(frame_bytes)
        view, filled = memoryview(content), 0
        while filled < frame_bytes:
            count = stream.readinto(view[filled : filled + 16 * _CHUNK])  # type: ignore[attr-defined]
            if not count:
                raise truncated(path)
            filled += count
        position = offset + frame_bytes
        while isinstance(stream, gzip.GzipFile) and (chunk := stream.read(_CHUNK)):
            position += len(chunk)
            require_no_bomb(path, position, expected_bytes)
    return content


def require_length(path: Path, expected_bytes: int) -> None:
    """Refuse a file that is too small to hold ``expected_bytes``, even if packed as well as deflate can."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    if path.stat().st_size * (LARGEST_DEFLATE_RATIO if packed else 1) < expected_bytes:
        raise truncated(path)


def require_no_bomb(path: Path, length: int, expected_bytes: int) -> None:
    """Refuse a packed stream that unpacks to much more than its header says."""
    if length > expected_bytes + LARGEST_TRAILER:
        raise VolumeError(
            "unpacks to far more data than its header says",
            path=path,
            remedy="The file is damaged or malicious; get a fresh copy from its source",
        )


def check_deflated(path: Path, offset: int, expected_bytes: int) -> None:
    """Unpack the zlib or gzip stream at ``offset`` piece by piece, keeping nothing, to know that it is whole.

    Raises:
        VolumeError: cut short, checksum wrong, or far longer than ``expected_bytes``.
    """
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip and zlib told apart by their first bytes
    length = 0
    with path.open("rb") as file:
        file.seek(offset)
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or file.read(_CHUNK)
            if not packed:
                raise truncated(path)
            try:
                length += len(unpacker.decompress(packed, 4 * _CHUNK))
            except zlib.error as error:
                raise damaged(path) from error
            require_no_bomb(path, length, expected_bytes)
    if length < expected_bytes:
        raise truncated(path)


def truncated(path: Path) -> VolumeError:
    """The error for a file that ends too early."""
    return VolumeError(
        "is cut short: it ends before the last voxel", path=path, remedy="Copy or download the file again"
    )


def damaged(path: Path) -> VolumeError:
    """The error for packed data whose checksum is wrong."""
    return VolumeError(
        "is damaged: its compressed data fails the checksum", path=path, remedy="Copy or download the file again"
    )
