"""Segmentations as DICOM SEG: beside the series they belong to, for archives and viewers.

DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20: one bit per voxel, one frame for each slice of each structure that has
any voxel in it. Structures may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import VolumeError
from fm3d_core.files import atomic_file
from fm3d_core.volumes.dicom_series import read_headers, stack_of
from fm3d_core.volumes.volume import Volume

if TYPE_CHECKING:
    import pydicom

Mask = npt.NDArray[np.bool_]
LONGEST_LABEL = 64  # characters of a segment's name (VR LO)
_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_OF_PATIENT_AND_STUDY = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
]
# CIELab as DICOM wants it (PS3.3 C.10.7.1.1), of red, green, blue, yellow, violet, cyan
_COLOURS = (
    (34891, 53480, 50167),
    (46130, 14450, 50699),
    (27980, 45452, 9619),
    (54536, 34370, 54622),
    (33599, 56150, 13391),
    (52305, 21841, 29647),
)


def write_dicom_segmentation(path: str | Path, masks: Mapping[str, Mask], like: Volume, made_by: str) -> Path:
    """Write masks of an image that was read from the folder of a DICOM series.

    The patient's and the study's tags are those of the series: a SEG without them belongs to nobody.

    Args:
        path: an existing file is replaced.
        masks: structure -> (X, Y, Z) on the RAS grid of ``like``, in the order of the segments.
        like: the image.
        made_by: name of the algorithm.

    Returns:
        ``path``.

    Raises:
        VolumeError: the image is no DICOM series.
        StorageError: disk full, no permission.
    """
    import pydicom

    folder = like.source.path
    if not folder.is_dir():
        raise VolumeError(
            "is no DICOM series, and only beside one a DICOM SEG has a meaning",
            path=folder,
            remedy="Choose another format, or give the folder of the series",
        )
    dataset = dicom_segmentation(masks, [dataset for _, dataset in read_headers(folder, everything=True)], made_by)
    with atomic_file(path) as temporary:
        pydicom.dcmwrite(temporary, dataset, write_like_original=False)
    return Path(path)


def dicom_segmentation(masks: Mapping[str, Mask], series: Sequence[pydicom.Dataset], made_by: str) -> pydicom.Dataset:
    """Masks as a DICOM SEG object.

    Args:
        masks: structure -> (X, Y, Z) on the RAS grid of the series, at least one.
        series: the slices' headers, in any order.
        made_by: name of the algorithm.

    Raises:
        VolumeError: the slices are no stack.
        ValueError: a mask is on another grid.
    """
    ordered, affine = stack_of(series)
    first = ordered[0]
    shape = (int(first.Columns), int(first.Rows), len(ordered))
    grid = Volume.from_array(np.zeros(shape, np.uint8), affine, "series")
    stacked = {name: grid.to_source(mask) for name, mask in masks.items()}  # (column, row, slice)
    dataset = _empty(first)
    covered = np.stack(list(stacked.values())).sum(axis=0)
    dataset.SegmentsOverlap = "YES" if covered.max() > 1 else "NO"
    dataset.SegmentSequence = [_segment(number, name, made_by) for number, name in enumerate(masks, start=1)]
    dataset.SharedFunctionalGroupsSequence = [_shared(first, affine)]
    dataset.ReferencedSeriesSequence = [_referenced(ordered)]
    frames, groups = [], []
    for number, mask in enumerate(stacked.values(), start=1):
        for index in np.flatnonzero(mask.any(axis=(0, 1))):
            frames.append(mask[:, :, index].T)
            groups.append(_of_frame(number, int(index), ordered[index]))
    if not frames:  # an object without frames is no image
        frames.append(np.zeros((shape[1], shape[0]), bool))
        groups.append(_of_frame(1, 0, first))
    dataset.NumberOfFrames, dataset.PerFrameFunctionalGroupsSequence = len(frames), groups
    bits = np.packbits(np.stack(frames).astype(np.uint8).ravel(), bitorder="little").tobytes()
    dataset.add_new(0x7FE00010, "OB", bits + b"\0" * (len(bits) % 2))
    return dataset


def _empty(first: pydicom.Dataset) -> pydicom.Dataset:
    """All that does not depend on the masks."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from fm3d_core import __version__

    dataset = pydicom.Dataset()
    dataset.preamble = b"\0" * 128  # so that a DICOMweb client, too, writes a whole file
    for keyword in _OF_PATIENT_AND_STUDY:
        if keyword in first:
            dataset[keyword] = first[keyword]
    now = datetime.now()
    values: dict[str, Any] = {
        "SpecificCharacterSet": first.get("SpecificCharacterSet", "ISO_IR 192"),
        "SOPClassUID": _STORAGE,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "SEG",
        "SeriesNumber": 300,
        "InstanceNumber": 1,
        "SeriesDescription": "FM3D segmentation",
        "Manufacturer": "FM3D",
        "ManufacturerModelName": "FM3D",
        "DeviceSerialNumber": "0",
        "SoftwareVersions": __version__,
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "Made with FM3D; research use only",
        "ContentCreatorName": "FM3D",
        "ImageType": ["DERIVED", "PRIMARY"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "LossyImageCompression": "00",
        "SegmentationType": "BINARY",
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "Rows": int(first.Rows),
        "Columns": int(first.Columns),
    }
    for kind in ("InstanceCreation", "Series", "Content"):
        values |= {f"{kind}Date": now.strftime("%Y%m%d"), f"{kind}Time": now.strftime("%H%M%S")}
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = generate_uid()
    organisation = generate_uid()
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organisation)]
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
            DimensionDescriptionLabel=label,
        )
        for pointer, group, label in (
            (0x0062000B, 0x0062000A, "ReferencedSegmentNumber"),
            (0x00200032, 0x00209113, "ImagePositionPatient"),
        )
    ]
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = _STORAGE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    return dataset


def _segment(number: int, name: str, made_by: str) -> pydicom.Dataset:
    kind = _code("123037004", "SCT", "Anatomical Structure")
    return _item(
        SegmentNumber=number,
        SegmentLabel=name[:LONGEST_LABEL],
        SegmentDescription=name[:LONGEST_LABEL],
        SegmentAlgorithmType="SEMIAUTOMATIC",
        SegmentAlgorithmName=made_by[:LONGEST_LABEL],
        SegmentedPropertyCategoryCodeSequence=[kind],
        SegmentedPropertyTypeCodeSequence=[_code("123037004", "SCT", name[:LONGEST_LABEL])],
        RecommendedDisplayCIELabValue=list(_COLOURS[(number - 1) % len(_COLOURS)]),
    )


def _shared(first: pydicom.Dataset, affine: npt.NDArray[np.float64]) -> pydicom.Dataset:
    """Direction and size of the voxels of all frames."""
    distance = float(np.linalg.norm(affine[:3, 2]))
    thickness = f"{distance:.10g}"
    return _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
        PixelMeasuresSequence=[
            _item(PixelSpacing=first.PixelSpacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)
        ],
    )


def _referenced(ordered: Sequence[pydicom.Dataset]) -> pydicom.Dataset:
    return _item(
        SeriesInstanceUID=ordered[0].SeriesInstanceUID,
        ReferencedInstanceSequence=[_reference(each) for each in ordered],
    )


def _of_frame(segment: int, index: int, source: pydicom.Dataset) -> pydicom.Dataset:
    """Which structure a frame is of, and where it lies."""
    reference = _reference(source)
    reference.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    return _item(
        FrameContentSequence=[_item(DimensionIndexValues=[segment, index + 1])],
        PlanePositionSequence=[_item(ImagePositionPatient=source.ImagePositionPatient)],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=segment)],
        DerivationImageSequence=[
            _item(
                SourceImageSequence=[reference],
                DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")],
            )
        ],
    )


def _reference(source: pydicom.Dataset) -> pydicom.Dataset:
    return _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def _code(value: str, scheme: str, meaning: str) -> pydicom.Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(**values: Any) -> pydicom.Dataset:
    import pydicom

    item = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, pydicom.Sequence(value) if keyword.endswith("Sequence") else value)
    return item
