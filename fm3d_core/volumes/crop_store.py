"""A store of prepared volumes from which a crop is read without the rest: chunked, in two resolutions.

On disk, for each volume a folder named by the sha256 of its content::

    crop_store.json                     how everything in it was prepared
    index.json                          all volumes, for a quick start
    left_out.json                       what could not be used, and why
    volumes/ab/ab12.../volume.json      spacing, frames, intensity ranges
    volumes/ab/ab12.../level_2.b2nd     (F, X, Y, Z) int16, in-plane resolution divided by 2

Intensities are codes from 0 to 2^bits - 1 over [-1, 1]. X and Y are the two axes of equal spacing.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import CaseError, SettingsError, VolumeError
from fm3d_core.volumes.packed_arrays import UNREADABLE, open_packed

FORMAT = 1
SETTINGS_FILE, INDEX_FILE, LEFT_OUT_FILE, VOLUME_FILE = "crop_store.json", "index.json", "left_out.json", "volume.json"
Triple = tuple[int, int, int]
_OPEN_LEVELS = 64  # files kept open by one store


@dataclass(frozen=True)
class CropStoreSettings:
    """How volumes are prepared.

    Attributes:
        percentiles: of each frame's intensities; they become -1 and 1, what lies beyond is clipped (3DINO).
        bits: of the stored codes. 10: a step of 0.002, half of bfloat16's near 1; of a CT from air to bone it is 2 HU,
            a tenth of the noise. A bit more costs about a tenth more disk.
        detail: in-plane voxels (along the shorter side) that the finest stored level keeps at least, if the volume
            has them: it is halved while it keeps that many. The default serves 112^3 crops of 48 % of the plane
            without upsampling; a large number keeps the full resolution.
        min_axis: volumes whose foreground has fewer voxels along any axis are left out.
        most_frames: of a 4D image; with more, evenly spaced ones are taken.

    Raises:
        SettingsError: an impossible value.
    """

    percentiles: tuple[float, float] = (0.05, 99.95)
    bits: int = 10
    detail: int = 168
    min_axis: int = 4
    most_frames: int = 16

    def __post_init__(self) -> None:
        low, high = self.percentiles
        sound = 0 <= low < high <= 100 and 4 <= self.bits <= 15
        if not sound or min(self.detail, self.min_axis, self.most_frames) < 1:
            raise SettingsError(
                f"impossible crop store settings {self}",
                remedy="Percentiles rise from 0 to 100, bits go from 4 to 15, the others from 1",
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "percentiles": list(self.percentiles),
            "bits": self.bits,
            "detail": self.detail,
            "min_axis": self.min_axis,
            "most_frames": self.most_frames,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropStoreSettings:
        """Of :meth:`to_dict`."""
        low, high = values["percentiles"]
        return cls((low, high), **{name: values[name] for name in ("bits", "detail", "min_axis", "most_frames")})


@dataclass(frozen=True)
class StoredVolume:
    """A prepared volume.

    Attributes:
        name: of its case; for messages.
        source: the file it was made of.
        sha256: of that file's content; names its folder.
        modality: "CT", "MR", "PT" or "unknown".
        shape: voxels of the foreground at full resolution, the two axes of equal spacing first.
        spacing: of these, in mm.
        axes: where the stored axes come from: ``(2, 0, 1)`` has the RAS volume's z first.
        frames: frame numbers of the source, one entry for each stored frame.
        ranges: for each frame the intensities at -1 and 1.
        levels: in-plane divisors of the stored levels, finest first, such as (1, 2).
    """

    name: str
    source: str
    sha256: str
    modality: str
    shape: Triple
    spacing: tuple[float, float, float]
    axes: Triple
    frames: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...]
    levels: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StoredVolume:
        """Of :meth:`to_dict`, read from JSON."""
        tuples = {name: _tuples(value) for name, value in values.items()}
        return cls(**{name: tuples[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class StoredCrop:
    """A part of a volume at one level, and where the box that was asked for lies in it.

    Attributes:
        values: (X, Y, Z) float32 in [-1, 1].
        start: the box's corner, in voxels of ``values``; fractional at a coarser level.
        length: the box's sides, in voxels of ``values``.
        level: the in-plane divisor.
    """

    values: npt.NDArray[np.float32]
    start: tuple[float, float, float]
    length: tuple[float, float, float]
    level: int


@dataclass
class CropStore:
    """Reads a store.

    Args:
        root: its folder.
        min_axis: leaves out volumes with fewer voxels along any axis.
        modalities: leaves out all others; empty takes all.

    Raises:
        CaseError: no store, or no volume in it is left.
    """

    root: Path
    min_axis: int = 0
    modalities: tuple[str, ...] = ()
    settings: CropStoreSettings = field(init=False)
    volumes: tuple[StoredVolume, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        self.settings = read_settings(self.root)
        try:
            rows = json.loads((self.root / INDEX_FILE).read_text(encoding="utf-8"))
            found = [StoredVolume.from_dict(row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CaseError(
                "has no readable index of its volumes", path=self.root, remedy="Run fm3d data cache once more"
            ) from error
        self.volumes = tuple(
            volume
            for volume in found
            if min(volume.shape) >= self.min_axis and (not self.modalities or volume.modality in self.modalities)
        )
        if not self.volumes:
            raise CaseError(
                f"none of its {len(found)} volumes has {self.min_axis} voxels along each axis and the wanted modality",
                path=self.root,
                remedy="Ask for less, or cache more volumes",
            )
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.volumes)

    def __getstate__(self) -> dict[str, Any]:
        # open files do not travel to another process
        return self.__dict__ | {"_open": OrderedDict()}

    def read(
        self, index: int, frame: int, start: Triple, length: Triple, wanted: tuple[int, int] = (1 << 30, 1 << 30)
    ) -> StoredCrop:
        """Read a box of a volume, unpacking only the chunks it touches.

        Args:
            index: of the volume.
            frame: position in its ``frames``.
            start, length: the box in voxels at full resolution.
            wanted: in-plane voxels the box will be resized to: the coarsest level that still has as many is read.

        Raises:
            VolumeError: the file is missing or damaged.
        """
        volume = self.volumes[index]
        level = choose_level(volume.levels, (length[0], length[1]), wanted)
        divisors = (level, level, 1)
        first = [begin // divisor for begin, divisor in zip(start, divisors, strict=True)]
        last = [-(-(b + n) // divisor) for b, n, divisor in zip(start, length, divisors, strict=True)]
        path = volume_folder(self.root, volume.sha256) / level_file(level)
        try:
            array = self._array(path, volume, level)
            box = tuple(slice(begin, end) for begin, end in zip(first, last, strict=True))
            codes = array[(frame, *box)]
        except UNREADABLE as error:
            raise VolumeError(
                f"stored crops of {volume.source} cannot be read ({error})",
                path=path,
                remedy="Delete that folder and run fm3d data cache again",
            ) from error
        values = codes.astype(np.float32)
        values *= np.float32(2 / (2**self.settings.bits - 1))
        values -= 1
        offset = [b / d - f for b, d, f in zip(start, divisors, first, strict=True)]
        sides = [n / d for n, d in zip(length, divisors, strict=True)]
        return StoredCrop(values, (offset[0], offset[1], offset[2]), (sides[0], sides[1], sides[2]), level)

    def bytes_on_disk(self, index: int) -> int:
        """What a volume takes on disk."""
        folder = volume_folder(self.root, self.volumes[index].sha256)
        return sum(file.stat().st_size for file in folder.iterdir())

    def _array(self, path: Path, volume: StoredVolume, level: int) -> Any:
        if path not in self._open:
            x, y, z = volume.shape
            shape = (len(volume.frames), -(-x // level), -(-y // level), z)
            self._open[path] = open_packed(path, shape, np.int16)
        self._open.move_to_end(path)
        while len(self._open) > _OPEN_LEVELS:
            self._open.popitem(last=False)
        return self._open[path]


def choose_level(levels: tuple[int, ...], length: tuple[int, int], wanted: tuple[int, int]) -> int:
    """The coarsest level at which a box of ``length`` voxels still has ``wanted``; else the finest."""
    fine_enough = [level for level in levels if all(n >= w * level for n, w in zip(length, wanted, strict=True))]
    return max(fine_enough, default=levels[0])


def read_settings(root: Path) -> CropStoreSettings:
    """How a store was made.

    Raises:
        CaseError: no store, or one of another format.
    """
    remedy = "Make one with fm3d data cache LIST --out FOLDER"
    try:
        values = json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise CaseError(f"is a crop store of format {values['format']}, not {FORMAT}", path=root, remedy=remedy)
        return CropStoreSettings.from_dict(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError("is no crop store", path=root, remedy=remedy) from error


def volume_folder(root: Path, sha256: str) -> Path:
    """Where a volume lies; two letters first, because a folder of 100,000 entries is slow."""
    return root / "volumes" / sha256[:2] / sha256


def level_file(level: int) -> str:
    """The file of a level."""
    return f"level_{level}.b2nd"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
