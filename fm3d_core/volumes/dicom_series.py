"""A folder with one DICOM series: geometry judged slice by slice with pydicom, pixels decoded by SimpleITK (GDCM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import VolumeError
from fm3d_core.volumes.header import Header, OpenedFile
from fm3d_core.volumes.volume import Affine, Array

# Slice distances may differ by this share of their median: more is a missing slice or an uneven acquisition.
LARGEST_UNEVENNESS = 0.01
# How far a slice may lie from its place on the straight line of slices, as a share of the slice distance.
LARGEST_WANDER = 0.1
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TAGS = ["Modality", "SeriesInstanceUID", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation"]
_TAGS += ["NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]


@dataclass(frozen=True)
class _Slice:
    path: Path
    rows: int
    columns: int
    position: npt.NDArray[np.float64]  # (3,) LPS mm, centre of the first voxel
    orientation: npt.NDArray[np.float64]  # (2, 3) LPS: along a row, along a column
    spacing: npt.NDArray[np.float64]  # (2,) mm: between rows, between columns
    dtype: str


def open_series(folder: Path) -> OpenedFile:
    """Read the headers of a folder's DICOM slices; hidden files and what is no DICOM is passed over.

    Raises:
        VolumeError: no DICOM image; several series; an object that is no image (RTSTRUCT, SEG); slices of different
            size or direction, missing, doubled, unevenly spaced or shifted against each other (gantry tilt).
    """
    datasets = read_headers(folder)
    series = {str(dataset.get("SeriesInstanceUID", "")) for _, dataset in datasets}
    if len(series) > 1:
        raise VolumeError(
            f"holds {len(series)} DICOM series", path=folder, remedy="Put each series into a folder of its own"
        )
    slices = [_slice(path, dataset) for path, dataset in datasets]
    ordered, affine = _stack(folder, slices)
    first = ordered[0]
    shape = (first.columns, first.rows, len(ordered))
    voxels = first.columns * first.rows * len(ordered)
    spacing = tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
    header = Header(folder, "DICOM series", shape, spacing, affine, first.dtype, 8 * voxels)
    return OpenedFile(header, lambda frame: _pixels(folder, [item.path for item in ordered], shape))


def stack_of(datasets: Sequence[Any]) -> tuple[list[Any], Affine]:
    """Headers of slices in the order in which a series is read, and the affine (to RAS+) of (column, row, slice).

    Raises:
        VolumeError: as of :func:`open_series`.
    """
    named = {Path(f"slice_{index:05d}"): dataset for index, dataset in enumerate(datasets)}
    ordered, affine = _stack(Path("series"), [_slice(path, dataset) for path, dataset in named.items()])
    return [named[item.path] for item in ordered], affine


def single_file_error(path: Path) -> VolumeError:
    """The error for a DICOM file given where a folder is needed; says so when it is no image at all."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError):
        dataset = pydicom.Dataset()
    if _is_image(dataset):
        return VolumeError("is a single DICOM file", path=path, remedy="Give the folder that holds its whole series")
    return _no_image(path, dataset)


def _is_image(dataset: Any) -> bool:
    return "Rows" in dataset and dataset.get("Modality") not in ("SEG", "RTDOSE")


def _no_image(path: Path, dataset: Any) -> VolumeError:
    return VolumeError(
        f"is a DICOM {dataset.get('Modality', 'object')}, not an image",
        path=path,
        remedy="Give the image series; convert its contours or segments to a label map, for instance in 3D Slicer",
    )


def read_headers(folder: Path, *, everything: bool = False) -> list[tuple[Path, Any]]:
    """The headers of a folder's DICOM files, of which only what geometry needs, or everything but the pixels.

    Raises:
        VolumeError: there is none, or one cannot be read.
    """
    import pydicom

    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.name.upper() == "DICOMDIR":
            continue
        try:
            tags = None if everything else _TAGS
            found.append((path, pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)))
        except pydicom.errors.InvalidDicomError:
            continue
        except (OSError, ValueError, EOFError, AttributeError) as error:
            raise VolumeError(
                f"cannot be read as DICOM ({error})", path=path, remedy="Export the series again"
            ) from error
    if not found:
        raise VolumeError(
            "is a folder without DICOM images",
            path=folder,
            remedy="Give an image file or the folder of one DICOM series",
        )
    return found


def _slice(path: Path, dataset: Any) -> _Slice:
    if not _is_image(dataset):
        raise _no_image(path, dataset)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise VolumeError(
            "is a multi-frame DICOM file", path=path, remedy="Convert it to NIfTI, for instance with dcm2niix"
        )
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise VolumeError("is a colour image", path=path, remedy="Give a grey image series")
    try:
        position, orientation, spacing = (
            np.array(dataset[name].value, dtype=np.float64)
            for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        )
        orientation = orientation.reshape(2, 3)
        sign = "int" if dataset.get("PixelRepresentation") else "uint"
        dtype = f"{sign}{int(dataset.get('BitsAllocated') or 16)}"
        return _Slice(path, int(dataset.Rows), int(dataset.Columns), position, orientation, spacing, dtype)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise VolumeError(
            "does not say how it lies in space (position, orientation or pixel spacing is missing)",
            path=path,
            remedy="Export the series again with complete headers",
        ) from error


def _stack(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], Affine]:
    """The slices in order along their normal, and the affine (to RAS+) of the stack as (column, row, slice)."""
    first = slices[0]
    for other in slices:
        if (other.rows, other.columns) != (first.rows, first.columns) or not (
            np.allclose(other.orientation, first.orientation, atol=1e-4)
            and np.allclose(other.spacing, first.spacing, rtol=1e-3)
        ):
            raise VolumeError(
                f"mixes slices of different size or direction ({first.path.name}, {other.path.name})",
                path=folder,
                remedy="Leave only the slices of one stack in the folder (localizers and reformats elsewhere)",
            )
    if len(slices) < 2:
        raise VolumeError("holds a single DICOM slice", path=folder, remedy="Give the folder of a whole series")
    normal = np.cross(*first.orientation)
    ordered = sorted(slices, key=lambda item: float(item.position @ normal))
    positions = np.array([item.position for item in ordered])
    _judge_distances(folder, np.diff(positions @ normal), [item.path.name for item in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    wander = np.linalg.norm(positions - positions[0] - np.arange(len(ordered))[:, None] * step, axis=1).max()
    if wander > LARGEST_WANDER * np.linalg.norm(step):
        raise VolumeError(
            f"has slices shifted sideways by up to {wander:.3g} mm", path=folder, remedy="Export the series again"
        )
    row, column = first.orientation
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * first.spacing[1], column * first.spacing[0], step
    affine[:3, 3] = positions[0]
    return ordered, _LPS_TO_RAS @ affine


def _judge_distances(folder: Path, distances: npt.NDArray[np.float64], names: list[str]) -> None:
    usual = float(np.median(distances))
    if distances.min() < 1e-3:
        where = int(distances.argmin())
        raise VolumeError(
            f"holds several slices at one place ({names[where]}, {names[where + 1]})",
            path=folder,
            remedy="Leave one time point or echo in the folder",
        )
    worst = int(np.abs(distances - usual).argmax())
    if abs(distances[worst] - usual) > LARGEST_UNEVENNESS * usual:
        raise VolumeError(
            f"has unevenly spaced slices: {distances[worst]:.4g} mm between {names[worst]} and {names[worst + 1]}, "
            f"elsewhere {usual:.4g} mm",
            path=folder,
            remedy="Export the series again, a slice seems to be missing, or resample it to even spacing",
        )


def _pixels(folder: Path, files: list[Path], shape: tuple[int, int, int]) -> Array:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in files])
    # Each slice may have its own rescale slope (PET): as float, none is rounded to the first one's integer type.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        array: Array = sitk.GetArrayFromImage(reader.Execute()).T
    except RuntimeError as error:
        raise VolumeError(
            "has pixels that cannot be decoded", path=folder, remedy="Export the series again, uncompressed if possible"
        ) from error
    if array.shape != shape:
        raise VolumeError("has pixels that do not fit its headers", path=folder, remedy="Export the series again")
    return array
