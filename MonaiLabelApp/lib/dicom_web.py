"""What is asked of a DICOMweb archive: series, their slices, and segmentations as DICOM SEG objects."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from fm3d_core import __version__
from fm3d_core.errors import FM3DError, LabelError
from fm3d_core.volumes import dicom_segmentation, read_label

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64
TIMEOUTS = (10.0, 120.0)  # seconds to connect, and between two pieces of an answer


class ArchiveError(FM3DError):
    """A DICOMweb archive that does not answer, or refuses."""

    http_status = 502


class Archive:
    """A DICOMweb archive.

    Args:
        url: of its DICOMweb root, for example http://127.0.0.1:8042/dicom-web.
        modalities: of the series that are offered.

    A user name and password are taken from MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD.
    """

    def __init__(self, url: str, modalities: Sequence[str] = ("CT", "MR")) -> None:
        self.url, self.modalities = url.rstrip("/"), tuple(modalities)
        user, password = (os.environ.get(f"MONAI_LABEL_DICOMWEB_{name}") for name in ("USERNAME", "PASSWORD"))
        session = create_session_from_user_pass(user, password) if user and password else requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Patient())
        self._client = DICOMwebClient(self.url, session)

    def series(self) -> dict[str, dict[str, Any]]:
        """Series UID -> what of it may be told: study UID and modality, no name of anybody.

        Raises:
            ArchiveError: it does not answer.
        """
        found = {}
        for modality in self.modalities:
            for entry in self._search({"Modality": modality}):
                series, study = str(entry.get("SeriesInstanceUID", "")), str(entry.get("StudyInstanceUID", ""))
                if is_uid(series) and is_uid(study):
                    found[series] = {"StudyInstanceUID": study, "Modality": modality}
        return found

    def segmentations(self) -> dict[str, tuple[str, str]]:
        """Image series UID -> study and series UID of its latest segmentation.

        Raises:
            ArchiveError: it does not answer.
        """
        found: dict[str, tuple[str, str]] = {}
        stamps: dict[str, str] = {}
        for entry in self._search({"Modality": "SEG"}):
            study, series = str(entry.StudyInstanceUID), str(entry.SeriesInstanceUID)
            with _told(self.url):
                metadata = self._client.retrieve_series_metadata(study, series)
            for each in metadata:
                segmentation = pydicom.Dataset.from_json(each)
                stamp = f"{segmentation.get('ContentDate', '')}{segmentation.get('ContentTime', '')}"
                for reference in segmentation.get("ReferencedSeriesSequence", []):
                    image = str(reference.SeriesInstanceUID)
                    if stamp >= stamps.get(image, ""):
                        found[image], stamps[image] = (study, series), stamp
        return found

    def fetch(self, study: str, series: str, folder: Path) -> None:
        """Write the slices of a series into ``folder``.

        Raises:
            ArchiveError: it does not answer, or has no such series.
        """
        count = 0
        with _told(self.url):
            for count, instance in enumerate(self._client.iter_series(study, series), start=1):
                instance.save_as(folder / f"{count:05d}.dcm")
        if not count:
            raise ArchiveError("the archive has no slices of this series", remedy="Choose another", path=self.url)

    def segmentation(self, study: str, series: str) -> tuple[Any, dict[str, int]]:
        """A segmentation as a SimpleITK image, and name -> voxel value.

        Raises:
            ArchiveError: it does not answer.
            LabelError: structures overlap, or it is no binary segmentation.
        """
        from pydicom_seg import MultiClassReader  # type: ignore[import-untyped]

        with _told(self.url):
            (instance, *_) = self._client.retrieve_series(study, series)
        try:
            result = MultiClassReader().read(instance)
        except ValueError as error:
            raise LabelError(f"the DICOM segmentation cannot be read ({error})", remedy="Submit a label map") from error
        names = {str(info.SegmentLabel): int(number) for number, info in result.segment_infos.items()}
        return result.image, names

    def store(self, label: Path, study: str, series: str, values: Mapping[str, int]) -> str:
        """Keep a label map as a DICOM SEG of its image series.

        Args:
            label: a file on the image's grid.
            study, series: of the image.
            values: structure -> voxel value.

        Returns:
            The series UID of the segmentation.

        Raises:
            ArchiveError: it does not answer or refuses.
        """
        with _told(self.url):
            metadata = self._client.retrieve_series_metadata(study, series)
        found = read_label(label).array
        present = {name: found == value for name, value in values.items() if (found == value).any()}
        masks = present or {name: found == value for name, value in values.items()}
        source = [pydicom.Dataset.from_json(each) for each in metadata]
        segmentation = dicom_segmentation(masks, source, f"FM3D {__version__}")
        with _told(self.url):
            self._client.store_instances([segmentation])
        return str(segmentation.SeriesInstanceUID)

    def _search(self, filters: dict[str, str]) -> Iterator[pydicom.Dataset]:
        fields = ["StudyInstanceUID", "SeriesInstanceUID", "Modality"]
        with _told(self.url):
            entries = self._client.search_for_series(search_filters=filters, fields=fields)
        return (pydicom.Dataset.from_json(entry) for entry in entries)


class _Patient(requests.adapters.HTTPAdapter):
    """Waits, but not for ever."""

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:  # type: ignore[override]
        settings["timeout"] = settings.get("timeout") or TIMEOUTS
        return super().send(request, **settings)


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM unique identifier, which can safely become part of a file name."""
    return len(text) <= LONGEST_UID and UID.fullmatch(text) is not None


@contextmanager
def slices_folder() -> Iterator[Path]:
    """A folder for slices, readable by nobody else; they hold names."""
    with tempfile.TemporaryDirectory(prefix="slices-") as folder:
        yield Path(folder)


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = f"answers {status}" if status else "does not answer"
        remedy = "Is it running, and is the address right?"
        raise ArchiveError(f"the DICOMweb archive {said}", path=url, remedy=remedy) from error
