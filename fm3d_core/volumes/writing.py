"""Writing segmentations and maps back on the grid of the file their image came from, never leaving half a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.errors import VolumeError
from fm3d_core.files import atomic_file
from fm3d_core.volumes.names import image_suffix
from fm3d_core.volumes.volume import Affine, Array, Volume

_SCANNER = 1  # NIfTI: NIFTI_XFORM_SCANNER_ANAT, the code for "as the scanner said"
_NIFTI_SUFFIXES, _ITK_SUFFIXES = (".nii", ".nii.gz"), (".nrrd", ".mha")


def write_label(path: str | Path, array_ras: Array, like: Volume) -> Path:
    """Write a segmentation as uint8 on the own file grid of ``like``: its shape, axis order and placement.

    A NIfTI file made from a NIfTI source has the same qform, sform, their codes and units.

    Args:
        path: ends in .nii, .nii.gz, .nrrd or .mha; an existing file is replaced.
        array_ras: (X, Y, Z) whole numbers from 0 to 255 on the RAS grid of ``like``.

    Returns:
        ``path``.

    Raises:
        VolumeError: another suffix, or ``path`` is the image itself.
        StorageError: disk full, no permission.
    """
    path = Path(path)
    array = np.asarray(array_ras)
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise ValueError("a segmentation must hold whole numbers from 0 to 255")
    _write(path, like.to_source(labels), like)
    return path


def write_map(path: str | Path, array_ras: Array, like: Volume) -> Path:
    """Write a map of real values, such as an uncertainty, as float32 on the own file grid of ``like``.

    A NIfTI file made from a NIfTI source has the same qform, sform, their codes and units.

    Args:
        path: ends in .nii, .nii.gz, .nrrd or .mha; an existing file is replaced.
        array_ras: (X, Y, Z) on the RAS grid of ``like``.

    Returns:
        ``path``.

    Raises:
        VolumeError: another suffix, or ``path`` is the image itself.
        StorageError: disk full, no permission.
    """
    path = Path(path)
    _write(path, like.to_source(np.asarray(array_ras, np.float32)), like)
    return path


def write_colours(path: str | Path, array_ras: Array, like: Volume) -> Path:
    """Write colours as RGB24 NIfTI on the own file grid of ``like``.

    Args:
        path: ends in .nii or .nii.gz; an existing file is replaced.
        array_ras: (X, Y, Z, 3) uint8 on the RAS grid of ``like``.

    Returns:
        ``path``.

    Raises:
        VolumeError: another suffix, or ``path`` is the image itself.
        StorageError: disk full, no permission.
    """
    path = Path(path)
    if image_suffix(path) not in _NIFTI_SUFFIXES:
        raise VolumeError("colours are written as NIfTI only", path=path, remedy="Choose a name that ends in .nii.gz")
    channels = np.stack([like.to_source(array_ras[..., channel]) for channel in range(3)], axis=-1)
    colours = np.ascontiguousarray(channels.astype(np.uint8)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    _write(path, colours, like)
    return path


def write_nifti(path: str | Path, array: Array, affine: Affine) -> Path:
    """Write an (X, Y, Z) array as NIfTI, stored in its own type, at ``affine`` (voxel -> RAS+ mm).

    Raises:
        StorageError: disk full, no permission.
    """
    path = Path(path)
    with atomic_file(path) as temporary:
        _save_nifti(temporary, array, affine, None)
    return path


def _write(path: Path, array: Array, like: Volume) -> None:
    suffix = image_suffix(path)
    if suffix not in _NIFTI_SUFFIXES + _ITK_SUFFIXES:
        raise VolumeError(
            "cannot be written in this format",
            path=path,
            remedy=f"Choose a name that ends in {', '.join(_NIFTI_SUFFIXES + _ITK_SUFFIXES)}",
        )
    if path.resolve() == like.source.path.resolve():
        raise VolumeError("is the image itself and is not replaced", path=path, remedy="Choose another name")
    with atomic_file(path) as temporary:
        if suffix in _NIFTI_SUFFIXES:
            _save_nifti(temporary, array, like.source.affine, like.source.nifti_geometry)
        else:
            _save_itk(temporary, array, like.source.affine)


def _save_nifti(path: Path, array: Array, affine: Affine, geometry: Any) -> None:
    import nibabel

    largest = max(array.shape) > np.iinfo(np.int16).max  # NIfTI-1 counts voxels in int16
    image_class = nibabel.Nifti2Image if largest else nibabel.Nifti1Image
    header = image_class.header_class()
    header.set_data_dtype(array.dtype)
    if geometry is None:
        image = image_class(array, affine, header)
        image.set_sform(affine, _SCANNER)
        image.set_qform(affine, _SCANNER)
        image.header.set_xyzt_units("mm")
    else:
        image = image_class(array, None, header)
        for field, value in geometry.items():
            if field == "pixdim":
                image.header["pixdim"][:4] = value
            else:
                image.header[field] = value
    nibabel.save(image, path)


def _save_itk(path: Path, array: Array, affine: Affine) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))  # ITK's arrays are (z, y, x)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
