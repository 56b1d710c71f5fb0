"""DICOM SEG: voxels are where they were in the patient, as pydicom and pydicom-seg read them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from fm3d_core.errors import VolumeError
from fm3d_core.volumes import Volume, dicom_segmentation, read_volume, write_dicom_segmentation, write_nifti
from fm3d_core.volumes.dicom_series import read_headers

SHAPE = (7, 5, 6)  # columns, rows, slices


def write_series(folder: Path, row: list[float], column: list[float]) -> Path:
    """A CT of 7 x 5 x 6 voxels of 0.8 x 1.1 x 2.5 mm; slices run along the directions' normal, file names do not."""
    folder.mkdir()
    normal = np.cross(row, column)
    series, study, frame = (generate_uid() for _ in range(3))
    for index in range(SHAPE[2]):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Doe^Jane", "7", "", "F"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "1200", "1", ""
        dataset.Modality = "CT"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = SHAPE[1], SHAPE[0], 1
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelSpacing, dataset.ImageOrientationPatient = [1.1, 0.8], [*row, *column]
        dataset.ImagePositionPatient = [round(float(x), 6) for x in np.array([-40, 12, 5]) + 2.5 * index * normal]
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.InstanceNumber = 1, 0, index + 1
        dataset.PixelData = np.arange(35, dtype=np.int16).tobytes()
        dataset.save_as(folder / f"{(index * 5) % 6}.dcm", write_like_original=False)
    return folder


@pytest.fixture(params=["axial", "sagittal", "oblique"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    angle = np.deg2rad(20)
    directions = {
        "axial": ([1, 0, 0], [0, 1, 0]),
        "sagittal": ([0, 1, 0], [0, 0, -1]),
        "oblique": ([np.cos(angle), np.sin(angle), 0], [0, 0, -1]),
    }[request.param]
    return read_volume(write_series(tmp_path / "series", *([round(float(x), 8) for x in each] for each in directions)))


@pytest.fixture
def masks(volume: Volume) -> dict[str, np.ndarray]:
    """Two structures that overlap, and one of which there is nothing."""
    generator = np.random.default_rng(1)
    first, second = (generator.random(volume.shape) < 0.3 for _ in range(2))
    return {"tumour": first, "its core": second, "absent": np.zeros(volume.shape, bool)}


def positions(mask: np.ndarray, affine: np.ndarray) -> set[tuple[float, ...]]:
    """RAS in mm of each voxel of a mask."""
    places = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return {tuple(np.round(place, 2) + 0.0) for place in places}


def test_every_voxel_is_where_it_was_in_the_patient(
    volume: Volume, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = write_dicom_segmentation(tmp_path / "out.dcm", masks, volume, "FM3D test")
    dataset = pydicom.dcmread(path)
    assert [str(segment.SegmentLabel) for segment in dataset.SegmentSequence] == list(masks)
    assert dataset.SegmentsOverlap == "YES" and dataset.PatientID == "7"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, along = (float(step) for step in shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[str, set[tuple[float, ...]]] = {name: set() for name in masks}
    frames = dataset.pixel_array.reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns)
    sources = {
        str(pydicom.dcmread(file).SOPInstanceUID): pydicom.dcmread(file) for file in (tmp_path / "series").iterdir()
    }
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        name = list(masks)[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(sources[str(source)].ImagePositionPatient) == list(corner)
        for r, c in np.argwhere(frame):
            left, back, up = corner + c * along * row + r * down * column
            found[name].add(tuple(np.round([-left, -back, up], 2) + 0.0))
    for name, mask in masks.items():
        assert found[name] == positions(mask, volume.affine), name


def test_pydicom_seg_reads_the_same(volume: Volume, masks: dict[str, np.ndarray], tmp_path: Path) -> None:
    reader = pytest.importorskip("pydicom_seg").SegmentReader()
    path = write_dicom_segmentation(tmp_path / "out.dcm", masks, volume, "FM3D test")
    result = reader.read(pydicom.dcmread(path))
    for number, (name, mask) in enumerate(masks.items(), start=1):
        assert str(result.segment_infos[number].SegmentLabel) == name
        image = result.segment_image(number)
        spacing, direction = np.array(image.GetSpacing()), np.array(image.GetDirection()).reshape(3, 3)
        lps = np.eye(4)
        lps[:3, :3], lps[:3, 3] = direction * spacing, image.GetOrigin()
        affine = np.diag([-1, -1, 1, 1]) @ lps
        assert positions(result.segment_data(number).T > 0, affine) == positions(mask, volume.affine), name


def test_a_dicomweb_client_that_writes_the_object_makes_a_whole_file(
    volume: Volume, masks: dict[str, np.ndarray]
) -> None:
    series = [dataset for _, dataset in read_headers(volume.source.path, everything=True)]
    written = BytesIO()
    pydicom.dcmwrite(written, dicom_segmentation(masks, series, "FM3D test"))
    written.seek(0)
    assert len(pydicom.dcmread(written).SegmentSequence) == len(masks)


def test_nothing_at_all_is_an_object_with_one_empty_frame(volume: Volume, tmp_path: Path) -> None:
    path = write_dicom_segmentation(tmp_path / "out.dcm", {"a": np.zeros(volume.shape, bool)}, volume, "x")
    dataset = pydicom.dcmread(path)
    assert dataset.NumberOfFrames == 1 and not dataset.pixel_array.any() and dataset.SegmentsOverlap == "NO"


def test_an_image_that_is_no_series_has_none(tmp_path: Path) -> None:
    image = read_volume(write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random(SHAPE), np.eye(4)))
    with pytest.raises(VolumeError, match="no DICOM series"):
        write_dicom_segmentation(tmp_path / "out.dcm", {"a": np.ones(SHAPE, bool)}, image, "x")
    assert not (tmp_path / "out.dcm").exists()
