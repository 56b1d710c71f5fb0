"""What a file's header says, and the judgement on it before any memory is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.errors import VolumeError
from fm3d_core.volumes.volume import Affine, Array, shear_of, spacing_of

# Cosine between two voxel axes above which the grid counts as sheared. Rounded headers stay below 1e-6;
# 1e-3 (0.06 degrees) moves a voxel by at most 0.5 mm over half a metre.
LARGEST_SHEAR = 1e-3


@dataclass(frozen=True)
class Header:
    """What a file says about its image; nothing is promised yet about its voxels.

    Attributes:
        path: the file, or the folder of a DICOM series.
        format: "NIfTI-1", "NIfTI-2", "MGH", "NRRD", "MetaImage" or "DICOM series".
        shape: voxels along the file's own axes: three entries, or four with the frames last.
        spacing: voxel size along these axes in mm.
        affine: (4, 4) voxel index -> RAS+ world in mm; None when the file does not say where it lies.
        dtype: the stored voxel type: a numpy name ("int16"), or such as "RGB" for what is no number.
        loaded_bytes: memory needed to read one frame, as float32 beside its stored form.
    """

    path: Path
    format: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: Affine | None
    dtype: str
    loaded_bytes: int

    @property
    def frames(self) -> int:
        """How many 3D frames the file holds."""
        return math.prod(self.shape[3:])


@dataclass(frozen=True)
class OpenedFile:
    """A file whose header is known; ``load(frame)`` gives one frame as float32 (X, Y, Z) in the file's own axes."""

    header: Header
    load: Callable[[int], Array]
    nifti_geometry: Mapping[str, Any] | None = None


def judge(header: Header, *, frame: int | None = None, limit_bytes: int | None = None) -> int:
    """Refuse what is not one usable 3D image.

    Args:
        header: of the file.
        frame: the frame asked for; needed when there are several.
        limit_bytes: most memory the image may take; None for half of the memory that is free now.

    Returns:
        The frame to load.

    Raises:
        VolumeError: the voxels are no plain numbers, fewer than three dimensions, several frames and none chosen,
            no or an impossible or a sheared placement in space, or too big for the memory.
    """
    _judge_voxels(header)
    _judge_shape(header)
    frame = _judge_frame(header, frame)
    _judge_geometry(header)
    _judge_size(header, limit_bytes)
    return frame


def _judge_voxels(header: Header) -> None:
    if header.dtype.startswith("complex"):
        raise VolumeError(
            f"voxels are complex numbers ({header.dtype})",
            path=header.path,
            remedy="Save the magnitude as a real image",
        )
    if not re.fullmatch(r"(bool|u?int|float|longdouble)\d*", header.dtype):
        raise VolumeError(
            f"voxels are {header.dtype}, not one number each",
            path=header.path,
            remedy="Save a grey image with one value per voxel",
        )


def _judge_shape(header: Header) -> None:
    if any(size < 1 for size in header.shape):
        raise VolumeError(
            f"the header says the impossible shape {_times(header.shape)}",
            path=header.path,
            remedy="The file is damaged; export it again",
        )
    if len(header.shape) < 3 or min(header.shape[:3]) < 2:
        raise VolumeError(
            f"is a single slice ({_times(header.shape)}), not a 3D image",
            path=header.path,
            remedy="Give a volume with at least two slices along each axis",
        )


def _judge_frame(header: Header, frame: int | None) -> int:
    if frame is None and header.frames == 1:
        return 0
    if frame is None or not 0 <= frame < header.frames:
        found = f"holds {header.frames} frames ({_times(header.shape)})"
        raise VolumeError(
            found if frame is None else f"{found}, there is no frame {frame}",
            path=header.path,
            remedy=f"Save one frame as a file of its own, or run fm3d predict --frame N (0 to {header.frames - 1})",
        )
    return frame


def _judge_geometry(header: Header) -> None:
    affine = header.affine
    lengths = header.spacing[:3] if affine is None else (*header.spacing[:3], *spacing_of(affine))
    if (
        not all(math.isfinite(length) and length > 0 for length in lengths)
        or not np.isfinite(0.0 if affine is None else affine).all()
    ):
        raise VolumeError(
            f"the header says the impossible voxel size {_times(header.spacing[:3])} mm",
            path=header.path,
            remedy="Correct the header's spacing and orientation, or convert the image again from its DICOM series",
        )
    if affine is None:
        fix = "Set it from the scanner's data, for instance by converting the DICOM series again with dcm2niix"
        if header.format.startswith("NIfTI"):
            fix += ", or in nibabel with img.set_sform(affine, code=1) if you know how it lies"
        raise VolumeError("does not say how it lies in space (no orientation)", path=header.path, remedy=fix)
    # MGH stores direction cosines; nibabel and FreeSurfer take those that are no exact rotation as they are.
    if header.format != "MGH" and shear_of(affine) > LARGEST_SHEAR:
        raise VolumeError(
            "voxel axes are not at right angles (sheared, such as an uncorrected CT gantry tilt)",
            path=header.path,
            remedy="Resample it to a rectangular grid first, for instance by converting its DICOM series with dcm2niix",
        )


def _judge_size(header: Header, limit_bytes: int | None) -> None:
    if limit_bytes is None:
        import psutil

        limit_bytes = psutil.virtual_memory().available // 2
    if header.loaded_bytes > limit_bytes:
        raise VolumeError(
            f"needs {_gigabytes(header.loaded_bytes)} for {_times(header.shape)} voxels of {header.dtype}, "
            f"the limit is {_gigabytes(limit_bytes)}",
            path=header.path,
            remedy="If the size is right, crop or downsample the image or free memory; if not, the header is damaged",
        )


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
