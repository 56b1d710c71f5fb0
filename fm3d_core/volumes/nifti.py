"""NIfTI-1 and -2 (single files and pairs, any byte order) and FreeSurfer's MGH, by nibabel's headers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.errors import VolumeError
from fm3d_core.volumes.header import LARGEST_SHEAR, Header, OpenedFile
from fm3d_core.volumes.names import image_suffix
from fm3d_core.volumes.streams import open_stream, read_frame
from fm3d_core.volumes.volume import Affine, Array, largest_distance, shear_of, spacing_of

logger = logging.getLogger(__name__)

# The header fields that say where the voxels lie.
GEOMETRY_FIELDS: tuple[str, ...] = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units")
GEOMETRY_FIELDS += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
# sform and qform of one file differ by some micrometres, because a qform's quaternion is rounded to float32; in mm.
FORM_TOLERANCE = 0.01
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # the lowest three bits of xyzt_units: metre, micrometre
_MAGICS = {b"n+1\0": 344, b"ni1\0": 344, b"n+2\0\r\n\x1a\n": 4, b"ni2\0\r\n\x1a\n": 4}


@dataclass(frozen=True)
class _Layout:
    """Where and how the voxels lie in a file: x fastest, frame after frame from ``offset`` on."""

    data: Path
    stored_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Three entries, or four: all further dimensions count as frames."""
        frames = math.prod(self.stored_shape[3:])
        return self.stored_shape[:3] if frames == 1 else (*self.stored_shape[:3], frames)

    def header(self, path: Path, format_name: str, spacing: tuple[float, ...], affine: Affine | None) -> Header:
        names = self.dtype.names
        dtype = self.dtype.name if names is None else {3: "RGB", 4: "RGBA"}.get(len(names), "records")
        loaded = math.prod(self.shape[:3]) * (self.dtype.itemsize + 4)
        return Header(path, format_name, self.shape, spacing, affine, dtype, loaded)

    def load(self, frame: int) -> Array:
        frame_bytes = math.prod(self.shape[:3]) * self.dtype.itemsize
        expected = self.offset + math.prod(self.shape) * self.dtype.itemsize
        content = read_frame(self.data, self.offset + frame * frame_bytes, frame_bytes, expected)
        stored: Array = np.frombuffer(content, self.dtype).reshape(self.shape[:3], order="F")
        with np.errstate(over="ignore"):  # beyond float32: becomes Inf, which is refused by name later
            if self.slope == 1.0 and self.intercept == 0.0:
                return stored.astype(np.float32)
            exact = np.float32 if np.can_cast(self.dtype, np.float32) else np.float64
            scaled: Array = stored.astype(exact)
            scaled *= self.slope
            scaled += self.intercept
            return scaled.astype(np.float32, copy=False)


def is_nifti(head: bytes) -> bool:
    """Whether a file's first (unpacked) bytes are a NIfTI header."""
    return any(head[start : start + len(magic)] == magic for magic, start in _MAGICS.items())


def is_mgh(head: bytes) -> bool:
    """Whether a file's first (unpacked) bytes are an MGH header: version 1, big endian, a voxel type from 0 to 4."""
    return head[:4] == b"\0\0\0\1" and head[20:23] == b"\0\0\0" and head[23] <= 4


def open_nifti(path: Path) -> OpenedFile:
    """Read the header of a NIfTI file or of a pair's ``.hdr``.

    Placement: the sform when it is set and usable, else the qform (nibabel's order); a warning is logged when both
    are set and differ by more than 0.01 mm. Lengths in metres or micrometres become mm. ``scl_slope`` 0, NaN
    or Inf is 1.

    Raises:
        VolumeError: the header cannot be understood, or a pair's ``.img`` is missing.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    with open_stream(path) as stream:
        head = stream.read(540)
    second = head[4:7] in (b"n+2", b"ni2")
    try:
        raw = nibabel.Nifti2Header(head[:540], check=False) if second else nibabel.Nifti1Header(head[:348], check=False)
        shape, dtype = tuple(int(size) for size in raw.get_data_shape()), raw.get_data_dtype()
        slope, intercept = raw.get_slope_inter()
        offset = int(raw["vox_offset"])
        pixdim = tuple(float(step) for step in raw["pixdim"][1:4])
        if raw["pixdim"][0] == 0:
            raw["pixdim"][0] = 1.0  # NIfTI-1 standard: a qfac of 0 means 1
        affine = _placement(raw, shape, path)
    except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
        raise VolumeError(
            f"has a NIfTI header that makes no sense ({error})", path=path, remedy="Export or download the image again"
        ) from error
    pair = bytes(raw["magic"])[:2] == b"ni"
    layout = _Layout(
        _data_file(path) if pair else path,
        shape,
        dtype,
        offset if pair else max(offset, raw.single_vox_offset),
        1.0 if slope is None else float(slope),
        float(intercept or 0.0),
    )
    scale = _MILLIMETRES.get(int(raw["xyzt_units"]) & 7, 1.0)
    affine = affine if affine is None else np.diag([scale, scale, scale, 1.0]) @ affine
    # A bad pixdim is reported as it stands; a good one gives way to the affine that is really used.
    sound = affine is not None and all(math.isfinite(step) and step > 0 for step in pixdim)
    spacing = spacing_of(affine) if sound and affine is not None else pixdim
    geometry = {field: raw[field].copy() for field in GEOMETRY_FIELDS} | {"pixdim": raw["pixdim"][:4].copy()}
    header = layout.header(path, "NIfTI-2" if second else "NIfTI-1", spacing, affine)
    return OpenedFile(header, layout.load, geometry)


def open_mgh(path: Path) -> OpenedFile:
    """Read the header of a FreeSurfer ``.mgh`` or ``.mgz`` file; its direction cosines are taken as they are.

    Raises:
        VolumeError: the header cannot be understood.
    """
    import nibabel
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    with open_stream(path) as stream:
        head = stream.read(284)
    try:
        raw = nibabel.freesurfer.mghformat.MGHHeader(head, check=False)
        shape, dtype = tuple(int(size) for size in raw["dims"]), raw.get_data_dtype()
        shape = shape[:3] if shape[3] == 1 else shape
        affine = raw.get_affine() if raw["goodRASFlag"] == 1 else None
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise VolumeError(
            f"has an MGH header that makes no sense ({error})", path=path, remedy="Export or download the image again"
        ) from error
    spacing = tuple(float(step) for step in raw["delta"]) if affine is None else spacing_of(affine)
    layout = _Layout(path, shape, dtype, raw.get_data_offset())
    return OpenedFile(layout.header(path, "MGH", spacing, affine), layout.load)


def _placement(raw: Any, shape: tuple[int, ...], path: Path) -> Affine | None:
    sform, qform = _form(raw, "sform"), _form(raw, "qform")
    if sform is None:
        if raw["sform_code"] > 0 and qform is not None:
            logger.warning("%s: its sform is unusable; its qform is used", path)
        return qform
    # A qform cannot be sheared, so it necessarily differs from a sheared sform: that one is refused by judge().
    if (
        qform is not None
        and shear_of(sform) <= LARGEST_SHEAR
        and (distance := largest_distance(sform, qform, shape)) > FORM_TOLERANCE
    ):
        logger.warning("%s: sform and qform differ by up to %.3g mm; the sform is used", path, distance)
    return sform


def _form(raw: Any, name: str) -> Affine | None:
    """The sform or qform if its code is set and it maps voxels to a real box, else None."""
    from nibabel.spatialimages import HeaderDataError

    if raw[f"{name}_code"] <= 0:
        return None
    try:
        affine = np.asarray(getattr(raw, f"get_{name}")(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None
    return affine if np.isfinite(affine).all() and min(spacing_of(affine)) > 0 else None


def _data_file(header: Path) -> Path:
    """The ``.img`` or ``.img.gz`` beside a pair's ``.hdr``."""
    stem = header.name[: len(header.name) - len(image_suffix(header))]
    for suffix in (".img", ".img.gz", ".IMG"):
        if (data := header.with_name(stem + suffix)).is_file():
            return data
    raise VolumeError(
        f"is one half of a pair, {stem}.img is missing", path=header, remedy="Put both files into the same folder"
    )
