"""The one way an image is read: told apart by its content, judged by its header, turned to RAS, checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fm3d_core.errors import LabelError, VolumeError
from fm3d_core.volumes import dicom_series, itk_formats, nifti
from fm3d_core.volumes.header import Header, OpenedFile, judge
from fm3d_core.volumes.names import image_suffix
from fm3d_core.volumes.streams import open_stream
from fm3d_core.volumes.volume import Array, Volume

logger = logging.getLogger(__name__)

LARGEST_LABEL = 255
_FORMATS = "NIfTI (.nii, .nii.gz, .hdr/.img), .mgz, .nrrd, .mha, .mhd or a folder with one DICOM series"


def inspect_header(path: str | Path) -> Header:
    """What an image file (or DICOM folder) says about itself; the voxels are not read.

    Raises:
        VolumeError: no image in a format we know, or its header makes no sense.
    """
    return _open(Path(path)).header


def read_volume(
    path: str | Path, *, frame: int | None = None, allow_nonfinite: bool = False, limit_bytes: int | None = None
) -> Volume:
    """Read an image as float32 in RAS.

    Args:
        path: a NIfTI, MGH, NRRD or MetaImage file, or a folder that holds one DICOM series.
        frame: which frame of a 4D file; a single frame needs no choice.
        allow_nonfinite: replace NaN and Inf by the smallest finite value, with a logged warning, instead of refusing.
        limit_bytes: most memory to take; None for half of what is free.

    Raises:
        VolumeError: the file is missing, damaged, cut short or of no known format; it is no single 3D image; it does
            not say how it lies in space or is sheared; it is too big; it holds NaN or Inf.
    """
    path = Path(path)
    opened = _open(path)
    frame = judge(opened.header, frame=frame, limit_bytes=limit_bytes)
    array = _finite(opened.load(frame), path, allow_nonfinite)
    assert opened.header.affine is not None  # judge() refused it otherwise
    return Volume.from_array(array, opened.header.affine, path, nifti_geometry=opened.nifti_geometry)


def read_label(path: str | Path, *, names: Mapping[int, str] | None = None) -> Volume:
    """Read a label map as uint8 in RAS.

    Args:
        path: as for :func:`read_volume`.
        names: what each value means; a value that is neither 0 nor named is refused. None takes any value.

    Raises:
        LabelError: values that are no whole numbers from 0 to 255, or have no name.
        VolumeError: as for :func:`read_volume`.
    """
    volume = read_volume(path)
    values = np.unique(volume.array)
    if bad := [value for value in values if value != np.rint(value)]:
        raise LabelError(
            f"is not a label map: it holds {_listed(bad)}",
            path=path,
            remedy="Labels are whole numbers; was it resampled with interpolation, or is it the image?",
        )
    if bad := [value for value in values if not 0 <= value <= LARGEST_LABEL]:
        raise LabelError(
            f"holds the label values {_listed(bad)}", path=path, remedy=f"Use values from 0 to {LARGEST_LABEL}"
        )
    if names is not None and (bad := [value for value in values if value != 0 and int(value) not in names]):
        known = ", ".join(f"{value} ({name})" for value, name in sorted(names.items()))
        raise LabelError(
            f"holds the unknown label values {_listed(bad)}", path=path, remedy=f"Known are 0 (background), {known}"
        )
    return Volume(volume.array.astype(np.uint8), volume.affine, volume.source)


def _open(path: Path) -> OpenedFile:
    if path.is_dir():
        return dicom_series.open_series(path)
    if not path.is_file():
        raise VolumeError("is no file" if path.exists() else "does not exist", path=path, remedy="Check the path")
    if image_suffix(path) in (".img", ".img.gz"):
        path = _header_of_pair(path)
    with open_stream(path) as stream:
        head = stream.read(1024)
    if nifti.is_nifti(head):
        return nifti.open_nifti(path)
    if nifti.is_mgh(head):
        return nifti.open_mgh(path)
    if itk_formats.is_nrrd(head):
        return itk_formats.open_nrrd(path)
    if itk_formats.is_metaimage(head):
        return itk_formats.open_metaimage(path)
    raise _not_an_image(path, head)


def _not_an_image(path: Path, head: bytes) -> VolumeError:
    if not head:
        return VolumeError("is empty", path=path, remedy="Copy or download the file again")
    if head.startswith(b"version https://git-lfs"):
        return VolumeError(
            "is a Git LFS pointer, the image itself was not downloaded",
            path=path,
            remedy="Run git lfs pull in that repository",
        )
    if head[128:132] == b"DICM":
        return dicom_series.single_file_error(path)
    if len(head) >= 348 and head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        return VolumeError(
            "is an Analyze 7.5 image, which does not say left from right", path=path, remedy="Convert it to NIfTI"
        )
    return VolumeError("is not an image in a format FM3D reads", path=path, remedy=f"Give {_FORMATS}")


def _header_of_pair(image: Path) -> Path:
    stem = image.name[: len(image.name) - len(image_suffix(image))]
    for suffix in (".hdr", ".hdr.gz", ".HDR"):
        if (header := image.with_name(stem + suffix)).is_file():
            return header
    raise VolumeError(
        f"is one half of a pair, {stem}.hdr is missing", path=image, remedy="Put both files into the same folder"
    )


def _finite(array: Array, path: Path, allow_nonfinite: bool) -> Array:
    finite = np.isfinite(array)
    if finite.all():
        return array
    count = int(array.size - np.count_nonzero(finite))
    if not allow_nonfinite or count == array.size:
        raise VolumeError(
            f"holds {count} voxel{'s' * (count > 1)} of NaN or Inf",
            path=path,
            remedy="Repair the image; fm3d predict can take them as the smallest value: --replace-nonfinite",
        )
    logger.warning("%s: %d voxels are NaN or Inf and are taken as the smallest finite value", path, count)
    array[~finite] = array[finite].min()
    return array


def _listed(values: list[np.float32]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown
