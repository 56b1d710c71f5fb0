"""MONAI Label's local folder of images and labels, with every name and every file checked before it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import LocalDatastore

from fm3d_core.errors import LabelError, SettingsError
from fm3d_core.files import atomic_file, sha256_of
from fm3d_core.volumes import case_name, check_label, read_label, read_volume
from fm3d_core.volumes.names import image_suffix
from MonaiLabelApp.lib.errors import Conflict, UnknownImage, told_as
from MonaiLabelApp.lib.labels import FINAL, voxel_values
from MonaiLabelApp.lib.requests import check_name

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz")


class CheckedDatastore(LocalDatastore):  # type: ignore[misc]
    """A study folder: images directly in it, labels in ``labels/TAG``, the index in ``datastore_v2.json``.

    It does not watch the folder: MONAI Label's watcher works on the index from a thread without a lock, and an upload
    seen by both loses its label_info. :meth:`refresh` looks for new files instead, in the server only; a training
    process, which makes its own datastore, just reads the index.
    """

    def __init__(self, studies: str) -> None:
        super().__init__(studies, extensions=[f"*{suffix}" for suffix in SUFFIXES], auto_reload=False, read_only=True)

    def image_file(self, image_id: str) -> Path:
        """The file of an image.

        Raises:
            UnknownImage: no such id, no file any more, or a link that leads out of the study folder.
        """
        path = Path(self.get_image_uri(image_id)) if isinstance(image_id, str) else Path()
        if not path.is_file() or not path.is_relative_to(Path(self._datastore_path).resolve()):
            raise UnknownImage(image_id)
        return path

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        """Keep an uploaded image.

        The same image may be sent again; another one under the same id replaces it while it has no label.

        Raises:
            SettingsError: the id or the file name's suffix is not allowed.
            VolumeError: not an image that can be used.
            Conflict: the id belongs to another image that is labelled already.
        """
        upload = Path(image_filename)
        image_id = check_name(image_id, "the image id")
        if case_name(image_id) != image_id:
            raise SettingsError(f"the image id {image_id} ends like a file", remedy="Give the id without the suffix")
        _check_suffix(upload, image_id)
        with told_as(image_id):
            _check_readable(upload)
        if image_id in self._datastore.objects:
            if _same_content(upload, Path(self.get_image_uri(image_id))):
                return image_id
            if self.get_labels_by_image_id(image_id):
                raise Conflict(
                    f"{image_id}: another image of this name is on the server and has a label",
                    remedy="Upload it under another name",
                )
            self.remove_image(image_id)
        return str(super().add_image(image_id, image_filename, dict(image_info)))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Keep a submitted label map.

        Raises:
            SettingsError: the tag or the file name's suffix is not allowed.
            UnknownImage: there is no such image.
            LabelError: it does not lie on the image's grid, is empty, or label_info does not fit its values.
        """
        tag = check_name(_text(label_tag), "the tag")
        image, label = self.image_file(image_id), Path(label_filename)
        name = f"label of {image_id}"
        _check_suffix(label, name)
        with told_as(name):
            volume = read_label(label)
            check_label(volume, read_volume(image, allow_nonfinite=True))
            if "label_info" in label_info:
                read_label_info(label_info, set(np.unique(volume.array).tolist()) - {0})
        return str(super().save_label(image_id, label_filename, tag, dict(label_info)))

    def values_of(self, image_id: str) -> dict[str, int] | None:
        """Structure name -> voxel value of the submitted label of an image; None: it was submitted without names.

        Raises:
            LabelError, VolumeError: the label cannot be read, or its label_info does not fit.
        """
        info = self.get_label_info(image_id, FINAL)
        if not info.get("label_info"):
            return None
        with told_as(f"label of {image_id}"):
            present = set(np.unique(read_label(self.get_label_uri(image_id, FINAL)).array).tolist()) - {0}
            return read_label_info(info, present)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels."""
        self._known(image_id)
        super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label."""
        self._known(label_id)
        super().remove_label(label_id, _text(label_tag))

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Merge ``info`` into what is known of an image."""
        self._known(image_id)
        super().update_image_info(image_id, dict(info))

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """Merge ``info`` into what is known of a label."""
        if self._datastore.label(label_id, label_tag) is None:
            raise UnknownImage(f"{label_id} with a label {label_tag}")
        super().update_label_info(label_id, label_tag, dict(info))

    def _known(self, image_id: str) -> None:
        if image_id not in self._datastore.objects:
            raise UnknownImage(image_id)

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        """Hidden files, such as the ones macOS puts beside images, are none of ours."""
        listed = super()._list_files(path, patterns)
        return {name: file for name, file in listed.items() if not name.startswith(".")}

    def _update_datastore_file(self, lock: bool = True) -> None:
        """The index is replaced as a whole, so that a crash never leaves half of it."""
        from filelock import FileLock

        content = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        with FileLock(self._lock_file) if lock else nullcontext():  # not ``lock``: the caller holds it
            with atomic_file(self._datastore_config_path) as temporary:
                temporary.write_text(content, encoding="utf-8")
            self._config_ts = Path(self._datastore_config_path).stat().st_mtime


def read_label_info(info: Mapping[str, Any], present: set[int]) -> dict[str, int]:
    """Structure name -> voxel value from what was sent with a label.

    Raises:
        LabelError: label_info is not a list of names and values that fits.
    """
    entries = info["label_info"]
    if not isinstance(entries, list) or not entries:
        raise LabelError("label_info is not a list", remedy='Send [{"name": "liver", "idx": 1}, ...]')
    return voxel_values(entries, present)


def _check_suffix(path: Path, name: str) -> None:
    if not path.name.lower().endswith(SUFFIXES):
        raise SettingsError(
            f"{name}: {''.join(path.suffixes)[-16:] or 'a file without suffix'} is not accepted",
            remedy=f"Send one of {', '.join(SUFFIXES)}",
        )


def _check_readable(path: Path) -> None:
    """Read once: a truncated file is refused now, not in a training an hour later."""
    read_volume(path, allow_nonfinite=True)


def _same_content(one: Path, other: Path) -> bool:
    return image_suffix(one) == image_suffix(other) and sha256_of(one) == sha256_of(other)


def _text(tag: Any) -> str:
    return str(getattr(tag, "value", tag))
