"""DICOM series: made with pydicom slice by slice, then spoiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fm3d_core.errors import VolumeError
from fm3d_core.volumes import inspect_header, read_volume

SERIES = generate_uid()


def write_slice(folder: Path, index: int, **changes: Any) -> Path:
    """Slice ``index`` of a 6 x 5 x N CT with 0.5 x 0.7 x 2 mm; file names run against the slice order."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta, dataset.is_little_endian, dataset.is_implicit_VR = meta, True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "CT", SERIES, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 5, 6, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [0.7, 0.5], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-10, -20, 30 + 2.0 * index]
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.InstanceNumber = 1, -1024, index + 1
    dataset.PixelData = pixels(index).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    path = folder / f"{50 - index}.dcm"
    dataset.save_as(path, write_like_original=False)
    return path


def pixels(index: int) -> np.ndarray:
    return (np.arange(30, dtype=np.int16) + 100 * index).reshape(5, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    series = tmp_path / "series"
    series.mkdir()
    for index in range(6):
        write_slice(series, index)
    return series


def test_slices_are_ordered_by_their_place_scaled_and_turned_to_ras(folder: Path) -> None:
    (folder / "README.txt").write_text("not DICOM")
    (folder / ".hidden.dcm").write_bytes(b"x")
    volume = read_volume(folder)
    stored = np.stack([pixels(index).T for index in range(6)], axis=-1) - 1024
    np.testing.assert_array_equal(volume.to_source(volume.array), stored)
    assert volume.spacing == pytest.approx((0.5, 0.7, 2.0))
    np.testing.assert_allclose(volume.source.affine @ [0, 0, 0, 1], [10, 20, 30, 1])
    assert volume.name == "series"


def test_each_slice_keeps_its_own_rescale_slope(folder: Path) -> None:
    write_slice(folder, 3, RescaleSlope=0.25, RescaleIntercept=0)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.to_source(volume.array)[..., 3], pixels(3).T * 0.25)


def test_the_header_names_shape_spacing_and_type(folder: Path) -> None:
    header = inspect_header(folder)
    assert (header.format, header.shape, header.dtype) == ("DICOM series", (6, 5, 6), "int16")


def other_series(folder: Path) -> None:
    write_slice(folder, 9, SeriesInstanceUID=generate_uid())
    write_slice(folder, 10, SeriesInstanceUID=generate_uid())


def missing_slice(folder: Path) -> None:
    (folder / "47.dcm").unlink()


def uneven(folder: Path) -> None:
    write_slice(folder, 3, ImagePositionPatient=[-10, -20, 36.05])


def doubled(folder: Path) -> None:
    write_slice(folder, 9, ImagePositionPatient=[-10, -20, 34])


def another_size(folder: Path) -> None:
    write_slice(folder, 6, Rows=3, Columns=10)


def localizer(folder: Path) -> None:
    write_slice(folder, 6, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


def gantry_tilt(folder: Path) -> None:
    for index in range(6):
        write_slice(folder, index, ImagePositionPatient=[-10, -20 + index, 30 + 2 * index])


def sideways(folder: Path) -> None:
    write_slice(folder, 3, ImagePositionPatient=[-9, -20, 36])


def structures(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    path = write_slice(folder, 0, Modality="RTSTRUCT")
    dataset = pydicom.dcmread(path)
    del dataset.Rows, dataset.PixelData
    dataset.save_as(path)


def no_position(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "47.dcm")
    del dataset.ImagePositionPatient
    dataset.save_as(folder / "47.dcm")


def colour(folder: Path) -> None:
    write_slice(folder, 3, SamplesPerPixel=3)


def one_slice(folder: Path) -> None:
    for file in list(folder.iterdir())[1:]:
        file.unlink()


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def lost_pixels(folder: Path) -> None:
    path = folder / "47.dcm"
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_series, "holds 3 DICOM series"),
        (missing_slice, r"4 mm between 48\.dcm and 46\.dcm, elsewhere 2 mm"),
        (uneven, "unevenly spaced"),
        (doubled, "several slices at one place"),
        (another_size, "different size"),
        (localizer, "direction"),
        (gantry_tilt, "sheared"),
        (sideways, "sideways"),
        (structures, "DICOM RTSTRUCT, not an image"),
        (no_position, "does not say how it lies"),
        (colour, "colour"),
        (one_slice, "single DICOM slice"),
        (empty, "without DICOM images"),
        (lost_pixels, "cannot be decoded"),
    ],
)
def test_a_spoiled_series_is_refused_in_one_line(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_deviation_below_one_percent_is_taken(folder: Path) -> None:
    write_slice(folder, 3, ImagePositionPatient=[-10, -20, 36.015])
    assert read_volume(folder).shape == (6, 5, 6)


def test_a_single_file_of_a_series_asks_for_the_folder(folder: Path) -> None:
    with pytest.raises(VolumeError, match="Give the folder"):
        read_volume(folder / "47.dcm")
