"""Images and labels of a DICOMweb archive, behind the same checks as a folder's."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fm3d_core.errors import FM3DError
from fm3d_core.volumes import read_volume, write_map, write_nifti
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.dicom_web import Archive, slices_folder
from MonaiLabelApp.lib.infers.result import new_file
from MonaiLabelApp.lib.labels import FINAL

logger = logging.getLogger(__name__)
LIST_SECONDS = 60.0  # how long a listing of the archive is believed
SENT = "dicom_seg"  # in what is known of a label: the series in the archive, or why it is not there


class DicomDatastore(CheckedDatastore):
    """The series of a DICOMweb archive, by their UIDs.

    A series is fetched when it is first needed, checked, and kept as NIfTI in a folder of the server's own, where
    labels are kept too. A final label also goes to the archive, as a DICOM SEG of its series; one that others have put
    there is taken when its series is fetched. Nothing that tells who a patient is leaves the archive but the voxels.

    Args:
        archive: where the series are.
        folder: of the server's copies.
    """

    def __init__(self, archive: Archive, folder: Path) -> None:
        self._archive = archive
        self._remote: dict[str, dict[str, Any]] = {}
        self._segmented: dict[str, tuple[str, str]] = {}
        self._listed, self._fetching = -LIST_SECONDS, threading.Lock()
        super().__init__(str(folder))

    def refresh(self) -> None:
        """Look into folder and archive; an archive that does not answer leaves what was known."""
        super().refresh()
        if time.monotonic() - self._listed < LIST_SECONDS:
            return
        try:
            remote, segmented = self._archive.series(), self._archive.segmentations()
        except FM3DError as error:
            logger.warning("The archive's list is not renewed: %s", error)
            return
        with self._one_thread:
            self._remote, self._segmented, self._listed = remote, segmented, time.monotonic()

    def list_images(self) -> list[str]:
        """Series of the archive, and images that were uploaded to the server itself."""
        with self._one_thread:
            here = self._datastore.objects
            return [*here, *(series for series in self._remote if series not in here)]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Those with a final label here or a segmentation in the archive."""
        with self._one_thread:
            here = super().get_labeled_images()
            return [*here, *(image for image in self._segmented if image in self._remote and image not in here)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The others."""
        labelled = set(self.get_labeled_images())
        return [image for image in self.list_images() if image not in labelled]

    def json(self) -> Any:
        """The index, with the series that were not fetched yet."""
        with self._one_thread:
            listed = super().json()
            for series, info in self._remote.items():
                listed["objects"].setdefault(series, {"image": {"ext": "", "info": dict(info)}, "labels": {}})
            return listed

    def image_file(self, image_id: str) -> Path:
        """The copy of a series, fetched at the first call.

        Raises:
            UnknownImage: there is no such series.
            ArchiveError: the archive does not answer.
            VolumeError: slices are missing, unevenly spaced or tilted.
        """
        if image_id not in self._datastore.objects and image_id in self._remote:
            with self._fetching:
                if image_id not in self._datastore.objects:
                    self._fetch(image_id)
        return super().image_file(image_id)

    def label_file(self, image_id: str, tag: str = FINAL) -> Path:
        """The file of a label; its image is fetched first."""
        self.image_file(image_id)
        return super().label_file(image_id, tag)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Keep a label here, and a final one in the archive too.

        What the archive does not take stays here, and ``dicom_seg`` in what is known of the label says why.
        """
        self.image_file(image_id)
        label_id = super().save_label(image_id, label_filename, label_tag, label_info)
        if getattr(label_tag, "value", label_tag) == FINAL and image_id in self._remote:
            self.update_label_info(label_id, FINAL, {SENT: self._send(image_id)})
        return label_id

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Merge ``info`` into what is known; of a series that was not fetched yet, nothing is kept."""
        if image_id not in self._datastore.objects and image_id in self._remote:
            return
        super().update_image_info(image_id, info)

    def _send(self, image_id: str) -> str:
        try:
            values = self.values_of(image_id) or {}
            study = self._remote[image_id]["StudyInstanceUID"]
            return self._archive.store(super().label_file(image_id), study, image_id, values)
        except FM3DError as error:
            logger.warning("The label of %s stays on this server only: %s", image_id, error)
            return f"not in the archive: {error.problem}"

    def _fetch(self, image_id: str) -> None:
        study = self._remote[image_id]["StudyInstanceUID"]
        with slices_folder() as folder:
            self._archive.fetch(study, image_id, folder)
            volume = read_volume(folder, allow_nonfinite=True)
            whole = np.array_equal(volume.array, volume.array.astype(np.int16))

            def write(path: Path) -> Any:
                if whole:
                    array = volume.to_source(volume.array.astype(np.int16))
                    return write_nifti(path, array, volume.source.affine)
                return write_map(path, volume.array, like=volume)

            copy = new_file("series-", ".nii.gz", write)
        try:
            self.add_image(image_id, str(copy), {"Modality": self._remote[image_id]["Modality"]})
        finally:
            copy.unlink()
        if image_id in self._segmented:
            self._take_segmentation(image_id)

    def _take_segmentation(self, image_id: str) -> None:
        """The segmentation in the archive as the final label; one that cannot be used leaves the image without."""
        import SimpleITK as sitk

        study, series = self._segmented[image_id]
        path = super().image_file(image_id)
        try:
            image, values = self._archive.segmentation(study, series)
            on_grid = sitk.Resample(image, sitk.ReadImage(str(path)), sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            label = new_file("label-", ".nii.gz", lambda target: sitk.WriteImage(on_grid, str(target)))
            try:
                entries = [{"name": name, "idx": value} for name, value in values.items()]
                super().save_label(image_id, str(label), FINAL, {"label_info": entries})
                self.update_label_info(image_id, FINAL, {SENT: series})
            finally:
                label.unlink()
        except FM3DError as error:
            logger.warning("The archive's segmentation of %s is not used: %s", image_id, error)
            with self._one_thread:
                self._segmented.pop(image_id, None)


def open_archive(url: str, folder: Path, modalities: str = "") -> DicomDatastore:
    """The datastore of an archive, with its copies in a folder of its own below ``folder``."""
    wanted = tuple(part.strip() for part in modalities.split(",") if part.strip())
    archive = Archive(url, wanted) if wanted else Archive(url)
    return DicomDatastore(archive, folder / hashlib.sha256(archive.url.encode()).hexdigest()[:16])
