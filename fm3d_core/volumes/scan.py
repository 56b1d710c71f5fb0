"""Scanning a folder tree for volumes: headers only, many files at once; what cannot be used is named with a reason."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from fm3d_core.errors import CaseError, FM3DError, Stopped
from fm3d_core.files import sha256_of
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.volumes.cases import is_dicom
from fm3d_core.volumes.header import judge
from fm3d_core.volumes.names import case_name, image_suffix
from fm3d_core.volumes.reading import inspect_header
from fm3d_core.volumes.volume_list import UNKNOWN, LeftOut, ListedVolume

# Folders that hold label maps, not images, in the layouts of nnU-Net, the Decathlon and FM3D.
LABEL_FOLDERS = ("labels", "labelsTr", "labelsTs", "masks", "segmentations")
_HEADER_SUFFIXES = (".hdr", ".hdr.gz", ".nhdr", ".mhd")  # their voxels lie in another file
_MODALITY_WORDS = {
    "CT": {"ct", "cta", "cbct", "ncct", "cect"},
    "MR": {"mr", "mri", "mra", "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t2s", "flair", "adc", "dwi", "bold"},
    "PT": {"pet", "pt", "suv"},
}


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        volumes: usable volumes in order of path.
        left_out: everything else in order of path.
    """

    volumes: tuple[ListedVolume, ...]
    left_out: tuple[LeftOut, ...]


def scan_folder(
    folder: str | Path,
    *,
    min_axis: int = 2,
    exclude: Sequence[str] = LABEL_FOLDERS,
    hash_files: bool = True,
    workers: int | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Scan:
    """Find all volumes below a folder: every format of ``read_volume``, and each folder of DICOM slices as a series.

    Hidden files are passed over and links to folders are not followed. The voxels are not looked at (but the bytes
    are read once for their hash).

    Args:
        min_axis: a volume with fewer voxels along any axis is left out (3DINO takes those above 24).
        exclude: names of sub-folders whose files are left out.
        hash_files: compute sha256; without it a scan is quicker and equal files are not recognised.
        workers: files looked at at once; None for four per processor, because a scan mostly waits for the disk.

    Raises:
        CaseError: no folder, or nothing usable in it.
        Stopped: ``should_stop`` said so.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaseError("is no folder", path=folder, remedy="Give a folder with images in it")
    volumes: list[ListedVolume] = []
    left_out: list[LeftOut] = []
    waiting: set[Future[ListedVolume | LeftOut]] = set()
    finding = StageClock("finding files", 0, progress)
    workers = workers or 4 * (os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for found in _candidates(folder, frozenset(exclude)):
                if isinstance(found, LeftOut):
                    left_out.append(found)
                else:
                    waiting.add(pool.submit(_look_at, found, folder, min_axis, hash_files))
                    finding.report(len(waiting))
                if should_stop():
                    raise Stopped("The scan")
            scanning = StageClock("reading headers", len(waiting), progress)
            for done, future in enumerate(as_completed(waiting), start=1):
                result = future.result()
                if isinstance(result, LeftOut):
                    left_out.append(result)
                else:
                    volumes.append(result)
                scanning.report(done)
                if should_stop():
                    raise Stopped("The scan")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not volumes:
        raise CaseError(
            f"holds no usable volume ({len(left_out)} files were left out)",
            path=folder,
            remedy="Look at one of them with fm3d data show FILE",
        )
    return Scan(tuple(sorted(volumes, key=lambda item: item.path)), tuple(sorted(left_out, key=lambda item: item.path)))


def guess_modality(path: Path, root: Path) -> str:
    """The modality that words of the path below ``root`` name, "unknown" when none or several are named."""
    words = set(re.split(r"[^a-z0-9]+", str(path.relative_to(root)).lower())) if path != root else set()
    found = [modality for modality, names in _MODALITY_WORDS.items() if words & names]
    return found[0] if len(found) == 1 else UNKNOWN


def content_hash(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a volume's content, whatever the number of files it lies in.

    One file: of its bytes. A series or a header with its data: of the files' hashes in order.
    """
    files = _files_of(path)
    size = sum(file.stat().st_size for file in files)
    if len(files) == 1:
        return sha256_of(files[0]), size
    hashes = [sha256_of(file) for file in files]
    if path.is_dir():
        hashes.sort()  # a copied series with other file names is the same series
    return hashlib.sha256("".join(hashes).encode()).hexdigest(), size


def content_bytes(path: Path) -> int:
    """The size in bytes of the files a volume lies in."""
    return sum(file.stat().st_size for file in _files_of(path))


def _candidates(folder: Path, exclude: frozenset[str]) -> Iterator[Path | LeftOut]:
    """Image files and series folders; and what is neither."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        excluded = exclude & set(here.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        series = False
        for name in sorted(name for name in names if not name.startswith(".")):
            path = here / name
            if excluded:
                yield LeftOut(path, "lies in a folder of label maps")
            elif (suffix := image_suffix(path)) in (".img", ".img.gz") and _has_header(path):
                continue  # its .hdr stands for both
            elif suffix:
                yield path
            elif _can_be_dicom(path):
                series = True
            elif (suffix := path.suffix.lower()) != ".raw":  # the voxels of a .mhd or .nhdr
                yield LeftOut(path, f"is no image ({suffix or 'no suffix'})")
        if series:
            yield here


def _can_be_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def _has_header(image: Path) -> bool:
    stem = image.name[: len(image.name) - len(image_suffix(image))]
    return any(image.with_name(stem + suffix).is_file() for suffix in (".hdr", ".hdr.gz", ".HDR"))


def _look_at(path: Path, root: Path, min_axis: int, hash_files: bool) -> ListedVolume | LeftOut:
    from nibabel.orientations import aff2axcodes

    try:
        header = inspect_header(path)
        judge(header, frame=0)
        assert header.affine is not None  # judge() refused it otherwise
        x, y, z = header.shape[:3]
        if min(x, y, z) < min_axis:
            return LeftOut(path, f"is smaller than {min_axis} voxels along an axis ({x} x {y} x {z})")
        dx, dy, dz = header.spacing[:3]
        digest, size = content_hash(path) if hash_files else ("", content_bytes(path))
    except FM3DError as error:
        # an error inside a series names the slice: that is worth keeping
        inner = error.path is not None and Path(error.path) != path
        return LeftOut(path, f"{error.problem}: {Path(str(error.path)).name}" if inner else error.problem)
    except OSError as error:
        return LeftOut(path, f"cannot be read ({error.strerror or error})")
    axes = "".join(aff2axcodes(header.affine))
    modality = _dicom_modality(path) if path.is_dir() else guess_modality(path, root)
    return ListedVolume(path, (x, y, z), (dx, dy, dz), header.frames, axes, modality, header.format, digest, size)


def _dicom_modality(folder: Path) -> str:
    import pydicom

    first = next(path for path in sorted(folder.iterdir()) if _can_be_dicom(path))
    modality = str(pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality", ""))
    return modality if modality in _MODALITY_WORDS else UNKNOWN


def _files_of(path: Path) -> list[Path]:
    """The files a volume lies in: itself, a series' files, or a header and what shares its name."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if not file.name.startswith(".") and _can_be_dicom(file))
    if image_suffix(path) not in _HEADER_SUFFIXES:
        return [path]
    stem = case_name(path)
    beside = (file for file in path.parent.iterdir() if file.is_file() and file != path)
    return [path, *sorted(file for file in beside if file.name.split(".")[0] == stem.split(".")[0])]
