"""Which volumes ``fm3d predict`` is asked about: files, folders, lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.volumes import Volume

LISTS = (".json", ".csv")


@dataclass(frozen=True)
class AskedVolume:
    """One of them.

    Attributes:
        name: what its results are called.
        images: a file or the folder of a DICOM series; of several channels a file each.
    """

    name: str
    images: tuple[Path, ...]

    def read(self, channels: int, frame: int | None, allow_nonfinite: bool) -> Volume:
        """Its image.

        Args:
            channels: that there must be.
            frame: of a 4D file, for tasks of one channel.
            allow_nonfinite: whether voxels that are not numbers are taken as the smallest value.

        Raises:
            VolumeError: unreadable, or another number of channels.
        """
        from fm3d_core.volumes import read_channels, read_volume

        if channels > 1 or len(self.images) > 1:
            return read_channels(self.images, channels)
        return read_volume(self.images[0], frame=frame, allow_nonfinite=allow_nonfinite)


def find_asked(paths: Sequence[Path], root: Path | None = None) -> list[AskedVolume]:
    """All volumes of files, folders of images, folders of one DICOM series, and lists (every case of them).

    Args:
        paths: in order.
        root: where relative paths of lists begin; None: the list's folder.

    Raises:
        CaseError: a folder or list without images.
    """
    from fm3d_core.volumes import case_name, find_cases, is_dicom_series, read_data_list

    found: list[AskedVolume] = []
    for path in paths:
        if path.suffix.lower() in LISTS:
            listed = read_data_list(path, root=root)
            cases = (*listed.training, *listed.validation, *listed.test)
            found += [AskedVolume(case.name, case.images) for case in cases]
        elif path.is_dir() and not is_dicom_series(path):
            found += [AskedVolume(case.name, (case.image,)) for case in find_cases(path)]
        else:
            found.append(AskedVolume(case_name(path), (path,)))
    return found
