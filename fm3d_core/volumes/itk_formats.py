"""NRRD and MetaImage by SimpleITK, after their text header and the length of their data were checked.

SimpleITK fills what a cut-off file lacks with zeros and says nothing, hence the own look at the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.errors import VolumeError
from fm3d_core.volumes.header import Header, OpenedFile
from fm3d_core.volumes.streams import GZIP_MAGIC, check_deflated, truncated
from fm3d_core.volumes.volume import Affine, Array

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGEST_TEXT = 2**20  # bytes of text header
# The spaces ITK turns into its own LPS; for any other it would take the numbers as they are.
_NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")


@dataclass(frozen=True)
class _Data:
    """Where the voxels lie: from ``offset`` of ``path`` on (None: at its end), deflated or raw."""

    path: Path
    offset: int | None
    deflated: bool


def is_nrrd(head: bytes) -> bool:
    """Whether a file's first bytes are an NRRD header."""
    return head.startswith(b"NRRD00")


def is_metaimage(head: bytes) -> bool:
    """Whether a file's first bytes are a MetaImage header."""
    return b"NDims" in head and b"=" in head[:64] and head[:64].split(b"=")[0].strip().isalpha()


def open_nrrd(path: Path) -> OpenedFile:
    """Read the header of a ``.nrrd`` or ``.nhdr`` file.

    Raises:
        VolumeError: it cannot be understood, its data file is missing, or its encoding is neither raw nor gzip.
    """
    fields, end = _text_header(path, ":", is_last=lambda line: not line.strip())
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise VolumeError(f"has the NRRD encoding {encoding!r}", path=path, remedy="Save it with raw or gzip encoding")
    skip = _whole_number(path, fields.get("byteskip", fields.get("byte skip", "0")))
    detached = fields.get("datafile", fields.get("data file"))
    if detached is None:
        data = _Data(path, end, encoding != "raw")
    else:
        data = _Data(_beside(path, detached), None if skip < 0 else skip, encoding != "raw")
    placed = fields.get("space", "").lower() in _NRRD_SPACES and "space directions" in fields
    return _open(path, "NRRD", "NrrdImageIO", data, placed=placed)


def open_metaimage(path: Path) -> OpenedFile:
    """Read the header of a ``.mha`` or ``.mhd`` file.

    Raises:
        VolumeError: it cannot be understood, or its data file is missing.
    """
    fields, end = _text_header(path, "=", is_last=lambda line: line.split(b"=")[0].strip() == b"ElementDataFile")
    if fields.get("binarydata", "true").lower() != "true":
        raise VolumeError("holds its voxels as text", path=path, remedy="Save it with BinaryData = True")
    name = fields.get("elementdatafile", "")
    deflated = fields.get("compresseddata", "false").lower() == "true"
    skip = _whole_number(path, fields.get("headersize", "0"))
    if name.upper() == "LOCAL":
        data = _Data(path, end, deflated)
    else:
        data = _Data(_beside(path, name), None if skip < 0 else skip, deflated)
    return _open(path, "MetaImage", "MetaImageIO", data, placed=True)


def _open(path: Path, format_name: str, reader_name: str, data: _Data, *, placed: bool) -> OpenedFile:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(
            f"has a {format_name} header that makes no sense", path=path, remedy="Export or download the image again"
        ) from error
    shape, dtype, itemsize = _voxels(reader)
    spacing, affine = _geometry(reader)
    expected = math.prod(shape) * itemsize
    loaded = expected + 4 * math.prod(shape[:3])
    header = Header(path, format_name, shape, spacing, affine if placed else None, dtype, loaded)

    def load(frame: int) -> Array:
        _check_length(data, expected)
        reader.SetOutputPixelType(sitk.sitkFloat32)
        if len(shape) > 3:
            reader.SetExtractSize([*shape[:3], 0])
            reader.SetExtractIndex([0, 0, 0, frame])
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise VolumeError(
                "cannot be decoded", path=path, remedy="The file is damaged; export or download it again"
            ) from error
        array: Array = sitk.GetArrayFromImage(image).T
        return array

    return OpenedFile(header, load)


def _voxels(reader: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape, type name and bytes per voxel; several components per voxel make the type "N channels"."""
    import SimpleITK as sitk

    shape = tuple(int(size) for size in reader.GetSize())
    shape = shape[:3] if len(shape) > 3 and math.prod(shape[3:]) == 1 else shape
    described = sitk.GetPixelIDValueAsString(reader.GetPixelID())  # such as "16-bit signed integer"
    bits = int("".join(letter for letter in described.split("-bit")[0] if letter.isdigit()) or "0")
    components = reader.GetNumberOfComponents()
    if "complex" in described:
        return shape, f"complex{2 * bits}", 2 * bits // 8
    if components > 1:
        return shape, f"{components} channels", components * bits // 8
    kind = "float" if "float" in described else "uint" if "unsigned" in described else "int"
    return shape, f"{kind}{bits}", bits // 8


def _geometry(reader: Any) -> tuple[tuple[float, ...], Affine | None]:
    """Spacing and affine (to RAS+); an image of fewer than three dimensions has no affine."""
    spacing = tuple(float(step) for step in reader.GetSpacing())
    dimensions = len(spacing)
    if dimensions < 3:
        return spacing, None
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(dimensions, dimensions)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return spacing[:3], _LPS_TO_RAS @ affine


def _check_length(data: _Data, expected: int) -> None:
    if data.deflated:
        check_deflated(data.path, data.offset or 0, expected)
    elif data.path.stat().st_size - (data.offset or 0) < expected:
        raise truncated(data.path)


def _text_header(path: Path, separator: str, *, is_last: Callable[[bytes], bool]) -> tuple[dict[str, str], int]:
    """The ``key: value`` lines of a header, keys in lower case, and the offset of the byte after its last line."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        while not compressed and file.tell() < _LARGEST_TEXT and (line := file.readline(_LARGEST_TEXT)):
            key, found, value = line.decode("utf-8", "surrogateescape").partition(separator)
            if found and not line.startswith(b"#"):
                fields[key.strip().lower()] = value.strip()
            if is_last(line):
                break
        end = file.tell()
    if compressed:
        raise VolumeError("is packed with gzip as a whole", path=path, remedy="Unpack it with gunzip first")
    return fields, end


def _whole_number(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise VolumeError(
            f"has a header with {text!r} where a number belongs", path=path, remedy="Export the image again"
        ) from error


def _beside(path: Path, name: str) -> Path:
    """The data file a header names, which must lie in the header's own folder."""
    data = path.parent / name
    if not name or "%" in name or name.split()[0].upper() == "LIST":
        raise VolumeError("keeps its voxels in several files", path=path, remedy="Save it as one file")
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise VolumeError(
            f"points to a data file outside of its folder ({name})", path=path, remedy="Put both into one folder"
        )
    if not data.is_file():
        raise VolumeError(
            f"has its voxels in {name}, which is missing", path=path, remedy="Put both files into the same folder"
        )
    return data
