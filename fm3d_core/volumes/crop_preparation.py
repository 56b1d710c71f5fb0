"""Making one volume ready for crops: range of intensities, axes, foreground, levels, codes; written in one piece."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import VolumeError
from fm3d_core.files import atomic_folder
from fm3d_core.volumes.crop_store import (
    VOLUME_FILE,
    CropStoreSettings,
    StoredVolume,
    Triple,
    level_file,
    volume_folder,
)
from fm3d_core.volumes.names import case_name
from fm3d_core.volumes.packed_arrays import pack
from fm3d_core.volumes.reading import read_volume
from fm3d_core.volumes.scan import content_bytes, content_hash
from fm3d_core.volumes.volume_list import UNKNOWN, ListedVolume

Frames = npt.NDArray[np.float32]  # (F, X, Y, Z)

# Two spacings that differ by less count as equal: 3DINO's 0.01, here as a share, so that micro-CT has axes too.
EQUAL_SPACING = 0.01
# An image with at most so many different values, all whole numbers from 0 on, of which neighbours are equal with at
# least this share, is taken for a label map. Dark uint8 images have as few values (a heart MR of ACDC has 27), but
# their neighbours differ. Label maps of more structures must be kept out by the scan's exclude.
LABEL_VALUES, LABEL_SAMENESS = 64, 0.9
# A level is halved only if it is wider than this: crops of a narrower one are never reduced to half.
HALVED_FROM = 96


@dataclass(frozen=True)
class _Prepared:
    """Frames of a volume, with axes in order, cut to the foreground, in [-1, 1]."""

    frames: Frames
    numbers: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    axes: Triple
    spacing: tuple[float, float, float]
    modality: str


def store_volume(listed: ListedVolume, root: Path, settings: CropStoreSettings) -> tuple[StoredVolume, bool]:
    """Prepare a volume and write it into the store, unless it is there.

    Returns:
        The stored volume, and whether it was there already.

    Raises:
        VolumeError: it cannot be read or used: NaN, constant, too small, a label map, changed since its scan.
        StorageError: disk full, no permission.
    """
    if not listed.path.exists():
        raise VolumeError("does not exist any more", path=listed.path, remedy="Scan the folder again")
    if listed.bytes and content_bytes(listed.path) != listed.bytes:
        raise VolumeError("has changed since the scan", path=listed.path, remedy="Scan the folder again")
    digest = listed.sha256 or content_hash(listed.path)[0]
    folder = volume_folder(root, digest)
    if folder.exists():
        if (there := _stored(folder)) is not None:
            return there, True
        shutil.rmtree(folder)  # it appeared in one piece, so it was damaged since
    prepared = prepare(listed, settings)
    levels = _levels(prepared.frames, settings.detail)
    _, x, y, z = prepared.frames.shape
    stored = StoredVolume(
        name=case_name(listed.path),
        source=str(listed.path),
        sha256=digest,
        modality=prepared.modality,
        shape=(x, y, z),
        spacing=prepared.spacing,
        axes=prepared.axes,
        frames=prepared.numbers,
        ranges=prepared.ranges,
        levels=tuple(levels),
    )
    try:
        with atomic_folder(folder) as temporary:
            for level, frames in levels.items():
                (temporary / level_file(level)).write_bytes(_packed(frames, settings.bits))
            (temporary / VOLUME_FILE).write_text(json.dumps(stored.to_dict()), encoding="utf-8")
    except FileExistsError:  # another process was quicker with the same volume
        return stored, True
    return stored, False


def prepare(listed: ListedVolume, settings: CropStoreSettings) -> _Prepared:
    """Read a volume's frames and make them ready, in memory.

    Raises:
        VolumeError: as for :func:`store_volume`.
    """
    count = min(listed.frames, settings.most_frames)
    numbers = tuple(int(number) for number in np.linspace(0, listed.frames - 1, count).round())
    frames, ranges, spacing, modality = [], [], (0.0, 0.0, 0.0), listed.modality
    for number in numbers:
        volume = read_volume(listed.path, frame=number)
        if modality == UNKNOWN:
            modality = modality_of_values(volume.array)
        frames.append(volume.array)
        ranges.append(_intensity_range(volume.array, settings.percentiles, listed.path))
        spacing = volume.spacing
    axes = in_plane_first(spacing)
    stack = np.stack([_scaled(frame, *ends) for frame, ends in zip(frames, ranges, strict=True)])
    stack = stack.transpose(0, *(axis + 1 for axis in axes))
    stack = np.ascontiguousarray(stack[(slice(None), *foreground(stack))])
    if min(stack.shape[1:]) < settings.min_axis:
        raise VolumeError(
            f"is smaller than {settings.min_axis} voxels along an axis ({_times(stack.shape[1:])} of foreground)",
            path=listed.path,
            remedy="Lower --min-axis to take it",
        )
    dx, dy, dz = (spacing[axis] for axis in axes)
    return _Prepared(stack, numbers, tuple(ranges), axes, (dx, dy, dz), modality)


def in_plane_first(spacing: tuple[float, float, float]) -> Triple:
    """The order of axes in which the two of equal spacing come first.

    The pairs are tried as in 3DINO: the first two axes, first and last, the last two. If no pair is equal, the two
    nearest to each other are taken (3DINO stops there).
    """
    pairs = ((0, 1), (0, 2), (1, 2))
    apart = [abs(spacing[a] - spacing[b]) / max(spacing[a], spacing[b]) for a, b in pairs]
    equal = [pair for pair, difference in zip(pairs, apart, strict=True) if difference < EQUAL_SPACING]
    first, second = equal[0] if equal else pairs[int(np.argmin(apart))]
    return first, second, 3 - first - second


def foreground(frames: Frames) -> tuple[slice, slice, slice]:
    """The box around everything above -1 in any frame; all of it when nothing is."""
    above = (frames > -1).any(axis=0)
    slices = []
    for axis in range(3):
        where = np.flatnonzero(above.any(axis=tuple(other for other in range(3) if other != axis)))
        slices.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(None))
    return slices[0], slices[1], slices[2]


def halve(frames: Frames) -> Frames:
    """Means over 2 x 2 voxels of the plane; the last row or column of an odd side counts twice."""
    _, x, y, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (0, x % 2), (0, y % 2), (0, 0)), mode="edge") if x % 2 or y % 2 else frames
    result: Frames = padded[:, 0::2, 0::2] + padded[:, 1::2, 0::2]
    result += padded[:, 0::2, 1::2]
    result += padded[:, 1::2, 1::2]
    result *= np.float32(0.25)
    return result


def modality_of_values(array: npt.NDArray[np.float32]) -> str:
    """ "CT" for whole numbers from air (-1000) to bone, the one range that only Hounsfield units have; else unknown."""
    sample = array[::2, ::2, ::2] if array.size > 10**6 else array
    low, high = float(sample.min()), float(sample.max())
    if -3100 <= low <= -900 and 200 <= high <= 33000 and (sample == np.rint(sample)).all():
        return "CT"
    return UNKNOWN


def _levels(frames: Frames, detail: int) -> dict[int, Frames]:
    """The stored levels by in-plane divisor: halved while ``detail`` remains, then one more at half of that."""
    level = 1
    while min(frames.shape[1:3]) // 2 >= detail:
        frames, level = halve(frames), 2 * level
    levels = {level: frames}
    if min(frames.shape[1:3]) >= HALVED_FROM:
        levels[2 * level] = halve(frames)
    return levels


def _intensity_range(
    array: npt.NDArray[np.float32], percentiles: tuple[float, float], path: Path
) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(array, percentiles))
    smallest, largest = float(array.min()), float(array.max())
    if smallest == largest:
        raise VolumeError("has the same value everywhere", path=path, remedy="Leave it out")
    if not low < high:
        raise VolumeError(
            f"has the same value ({low:g}) nearly everywhere", path=path, remedy="Leave it out, it shows nothing"
        )
    if is_label_map(array):
        raise VolumeError(
            "looks like a label map, it holds few different whole numbers", path=path, remedy="Leave label maps out"
        )
    return low, high


def is_label_map(array: npt.NDArray[np.float32]) -> bool:
    """Whether an (X, Y, Z) array holds few whole numbers from 0 on, in large areas of one value each."""
    sample = array.ravel()[:: max(1, array.size // 10**6)]
    if len(np.unique(sample)) > LABEL_VALUES:
        return False
    values = np.unique(array)
    if len(values) > LABEL_VALUES or values[0] < 0 or (values != np.rint(values)).any():
        return False
    return bool((array[1:] == array[:-1]).mean() > LABEL_SAMENESS)


def _scaled(array: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    scaled = (array - np.float32(low)) * np.float32(2 / (high - low))
    scaled -= 1
    result: npt.NDArray[np.float32] = np.clip(scaled, -1, 1, out=scaled)
    return result


def _packed(frames: Frames, bits: int) -> bytes:
    """The bytes of a .b2nd file of ``frames`` in [-1, 1]."""
    scale = np.float32((2**bits - 1) / 2)
    return pack(np.rint((frames + 1) * scale).astype(np.int16))


def _stored(folder: Path) -> StoredVolume | None:
    try:
        stored = StoredVolume.from_dict(json.loads((folder / VOLUME_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored if all((folder / level_file(level)).is_file() for level in stored.levels) else None


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(str(number) for number in numbers)
