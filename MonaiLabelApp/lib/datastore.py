"""MONAI Label's local folder of images and labels, with every name and every file checked before it is kept."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from fm3d_core.errors import SettingsError
from fm3d_core.files import atomic_file, sha256_of, storage_error
from fm3d_core.volumes import case_name, check_label, read_label, read_volume
from fm3d_core.volumes.names import image_suffix
from MonaiLabelApp.lib.errors import Conflict, UnknownImage, told_as
from MonaiLabelApp.lib.labels import FINAL, read_label_info
from MonaiLabelApp.lib.requests import check_name

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz")
BIN = "bin"  # folder, beside the images, of what was deleted or replaced
JOURNAL = ".journal"  # folder of what each label means that is being written just now
# What MONAI Label reads of the index; while one thread changes it, no other may look.
_LOOKS = (
    ("datalist", "get_image", "get_image_uri", "get_image_info", "get_label", "get_label_uri", "get_label_info")
    + ("get_labels_by_image_id", "get_label_by_image_id", "get_labeled_images", "get_unlabeled_images")
    + ("list_images", "refresh", "status", "json")
)
_Class = TypeVar("_Class", bound=type)


def _one_at_a_time(datastore: _Class) -> _Class:
    for name in _LOOKS:
        setattr(datastore, name, _locked(getattr(datastore, name)))
    return datastore


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(self: CheckedDatastore, *arguments: Any, **named: Any) -> Any:
        with self._one_thread:
            return method(self, *arguments, **named)

    return locked


@_one_at_a_time
class CheckedDatastore(LocalDatastore):  # type: ignore[misc]
    """A study folder: images directly in it, labels in ``labels/TAG``, the index in ``datastore_v2.json``.

    What is removed or replaced goes to ``bin``, and every file is written whole or not at all. It does not watch the
    folder: MONAI Label's watcher works on the index from a thread without a lock, and an upload seen by both loses its
    label_info. :meth:`refresh` looks for new files instead.
    """

    def __init__(self, studies: str) -> None:
        self._one_thread = threading.RLock()
        super().__init__(studies, extensions=[f"*{suffix}" for suffix in SUFFIXES], auto_reload=False, read_only=True)

    @property
    def folder(self) -> Path:
        """Where images, labels and index lie."""
        return Path(self._datastore_path)

    def image_file(self, image_id: str) -> Path:
        """The file of an image.

        Raises:
            UnknownImage: no such id, no file any more, or a link that leads out of the study folder.
        """
        path = Path(self.get_image_uri(image_id)) if isinstance(image_id, str) else Path()
        if not path.is_file() or not path.is_relative_to(self.folder.resolve()):
            raise UnknownImage(image_id)
        return path

    def label_file(self, image_id: str, tag: str = FINAL) -> Path:
        """The file of a label.

        Raises:
            UnknownImage: there is none, or it is a link that leads out of the study folder.
        """
        path = Path(self.get_label_uri(image_id, tag))
        if not path.is_file() or not path.is_relative_to(self.folder.resolve()):
            raise UnknownImage(f"{image_id} with a label {tag}")
        return path

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        """Keep an uploaded image.

        The same image may be sent again; another one under the same id replaces it while it has no label.

        Raises:
            SettingsError: the id or the file name's suffix is not allowed.
            VolumeError: not an image that can be used.
            Conflict: the id belongs to another image that is labelled already, or differs from one by case only.
        """
        upload = Path(image_filename)
        image_id = check_name(image_id, "the image id")
        if case_name(image_id) != image_id:
            raise SettingsError(f"the image id {image_id} ends like a file", remedy="Give the id without the suffix")
        suffix = _checked_suffix(upload, image_id)
        with told_as(image_id):
            read_volume(upload, allow_nonfinite=True)  # a truncated file is refused now, not in an hour's training
        with self._one_thread:
            if image_id in self._datastore.objects:
                if _same_content(upload, Path(self.get_image_uri(image_id))):
                    return image_id
                if self.get_labels_by_image_id(image_id):
                    raise Conflict(
                        f"{image_id}: another image of this name is on the server and has a label",
                        remedy="Upload it under another name",
                    )
                self.remove_image(image_id)
            self._refuse_same_but_for_case(image_id)
            self._keep(upload, self._image_folder / f"{image_id}{suffix}")
            info = {**image_info, "ts": int(time.time()), "name": f"{image_id}{suffix}"}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=suffix))
            self._update_datastore_file()
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Keep a submitted label map; the one before goes to the bin.

        Raises:
            SettingsError: the tag or the file name's suffix is not allowed.
            UnknownImage: there is no such image.
            LabelError: it does not lie on the image's grid, is empty, or label_info does not fit its values.
        """
        tag = check_name(_text(label_tag), "the tag")
        image, label = self.image_file(image_id), Path(label_filename)
        name = f"label of {image_id}"
        suffix = _checked_suffix(label, name)
        with told_as(name, always=True):
            volume = read_label(label)
            check_label(volume, read_volume(image, allow_nonfinite=True))
            if "label_info" in label_info:
                read_label_info(label_info, set(np.unique(volume.array).tolist()) - {0})
        with self._one_thread:
            if image_id not in self._datastore.objects:  # removed meanwhile
                raise UnknownImage(image_id)
            folder = Path(self._datastore.label_path(tag))
            earlier = self._datastore.objects[image_id].labels.get(tag)
            if earlier is not None:
                self._to_bin(folder / f"{image_id}{earlier.ext}", f"labels/{tag}", dict(earlier.info))
            info = {**label_info, "ts": int(time.time()), "name": f"{image_id}{suffix}"}
            journal = self._journal(image_id, tag, suffix, info, sha256_of(label))
            self._keep(label, folder / f"{image_id}{suffix}")
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=suffix)
            self._update_datastore_file()
            journal.unlink()
            if earlier is not None and earlier.ext != suffix:
                (folder / f"{image_id}{earlier.ext}").unlink(missing_ok=True)
        return image_id

    def recover(self) -> list[str]:
        """Finish what a killed server had begun, and find files that were put into the folder meanwhile.

        Returns:
            The images whose label was on its way into the index.
        """
        self.refresh()
        finished = []
        with self._one_thread:
            for journal in sorted((self.folder / JOURNAL).glob("*.json")):
                entry = json.loads(journal.read_text(encoding="utf-8"))
                file = Path(self._datastore.label_path(entry["tag"])) / f"{entry['image']}{entry['ext']}"
                known = self._datastore.objects.get(entry["image"])
                if known is not None and file.is_file() and sha256_of(file) == entry["sha256"]:
                    known.labels[entry["tag"]] = DataModel(info=entry["info"], ext=entry["ext"])
                    self._update_datastore_file()
                    finished.append(entry["image"])
                journal.unlink()
        return finished

    def values_of(self, image_id: str) -> dict[str, int] | None:
        """Structure name -> voxel value of the submitted label of an image; None: it was submitted without names.

        Raises:
            LabelError, VolumeError: the label cannot be read, or its label_info does not fit.
        """
        info = self.get_label_info(image_id, FINAL)
        if not info.get("label_info"):
            return None
        with told_as(f"label of {image_id}", always=True):
            present = set(np.unique(read_label(self.get_label_uri(image_id, FINAL)).array).tolist()) - {0}
            return read_label_info(info, present)

    def remove_image(self, image_id: str) -> None:
        """Move an image and its labels into the bin."""
        with self._one_thread:
            self._known(image_id)
            for tag in list(self._datastore.objects[image_id].labels):
                self.remove_label(image_id, tag)
            entry = self._datastore.objects.pop(image_id)
            file = self._image_folder / f"{image_id}{entry.image.ext}"
            self._to_bin(file, "images", dict(entry.image.info))
            file.unlink(missing_ok=True)
            self._update_datastore_file()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Move a label into the bin."""
        tag = _text(label_tag)
        with self._one_thread:
            self._known(label_id)
            entry = self._datastore.objects[label_id].labels.pop(tag, None)
            if entry is None:
                raise UnknownImage(f"{label_id} with a label {tag}")
            file = Path(self._datastore.label_path(tag)) / f"{label_id}{entry.ext}"
            self._to_bin(file, f"labels/{tag}", dict(entry.info))
            file.unlink(missing_ok=True)
            self._update_datastore_file()

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Merge ``info`` into what is known of an image."""
        with self._one_thread:
            self._known(image_id)
            super().update_image_info(image_id, dict(info))

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """Merge ``info`` into what is known of a label."""
        with self._one_thread:
            if self._datastore.label(label_id, label_tag) is None:
                raise UnknownImage(f"{label_id} with a label {label_tag}")
            super().update_label_info(label_id, label_tag, dict(info))

    @property
    def _image_folder(self) -> Path:
        return Path(self._datastore.image_path())

    def _known(self, image_id: str) -> None:
        if image_id not in self._datastore.objects:
            raise UnknownImage(image_id)

    def _refuse_same_but_for_case(self, image_id: str) -> None:
        """On Windows and macOS both would be one file."""
        for other in self._datastore.objects:
            if other != image_id and other.lower() == image_id.lower():
                raise Conflict(f"{image_id} differs from {other} by case only", remedy="Choose another name")

    def _keep(self, upload: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            shutil.copyfile(upload, temporary)

    def _journal(self, image_id: str, tag: str, suffix: str, info: Mapping[str, Any], sha256: str) -> Path:
        """Note what a label means before its file is there: killed in between, :meth:`recover` puts both together."""
        path = self.folder / JOURNAL / f"{image_id}.{tag}.json"
        entry = {"image": image_id, "tag": tag, "ext": suffix, "info": dict(info), "sha256": sha256}
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(entry, default=str), encoding="utf-8")
        return path

    def _to_bin(self, file: Path, kind: str, info: Mapping[str, Any]) -> None:
        """Keep a file under a new name in the bin, beside what was known of it; the file itself stays."""
        if not file.is_file():
            return
        folder = self.folder / BIN / kind
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        target = folder / f"{case_name(file)}.{stamp}{image_suffix(file)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target, follow_symlinks=False)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, target, follow_symlinks=False)
        except OSError as error:
            raise storage_error(target, error) from error
        with atomic_file(folder / f"{case_name(file)}.{stamp}.json") as temporary:
            temporary.write_text(json.dumps(dict(info), default=str), encoding="utf-8")

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


def _checked_suffix(path: Path, name: str) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise SettingsError(
            f"{name}: {''.join(path.suffixes)[-16:] or 'a file without suffix'} is not accepted",
            remedy=f"Send one of {', '.join(SUFFIXES)}",
        )
    return suffix


def _same_content(one: Path, other: Path) -> bool:
    return image_suffix(one) == image_suffix(other) and sha256_of(one) == sha256_of(other)


def _text(tag: Any) -> str:
    return str(getattr(tag, "value", tag))
