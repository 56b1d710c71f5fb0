"""Crops of labelled volumes: centred on structures or on background, magnified, turned and brightened at random.

Probabilities and ranges are FSEFT's (Silva-Rodriguez et al. 2023); each change is MONAI's of that name.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fm3d_core.errors import SettingsError, VolumeError
from fm3d_core.pretraining.partial_labels.preparation import (
    BACKGROUND_FILE,
    FOREGROUND_FILE,
    IMAGE_FILE,
    LABEL_FILE,
    LARGEST_CODE,
    PreparedCase,
    Triple,
)
from fm3d_core.volumes.packed_arrays import UNREADABLE, open_packed

_OPEN_CASES = 64  # kept open by one reader


@dataclass(frozen=True)
class LabelledCropSettings:
    """What is cut of a volume; the defaults are FSEFT's.

    Attributes:
        size: of a crop, in voxels.
        number: crops of each volume.
        positive: share of the crops that are centred on a voxel of a structure (4:1).
        intensity_range: what the window's ends become; FSEFT: 0 and 1, FM3D's adaptation: -1 and 1.
        zoom: smallest and largest magnification, in sets whose map says so; zoom_probability: of it, for all crops
            of a volume together.
        turn_probability: of a turn by 90, 180 or 270 degrees in the plane of the slices.
        shift: largest change of the brightness, as a share of the intensity range; shift_probability: of it.

    Raises:
        SettingsError: an impossible value.
    """

    size: Triple = (96, 96, 96)
    number: int = 3
    positive: float = 0.8
    intensity_range: tuple[float, float] = (0.0, 1.0)
    zoom: tuple[float, float] = (1.1, 1.3)
    zoom_probability: float = 0.3
    turn_probability: float = 0.1
    shift: float = 0.1
    shift_probability: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.positive, self.zoom_probability, self.turn_probability, self.shift_probability)
        sound = min(self.size) >= 1 and self.number >= 1 and all(0 <= share <= 1 for share in shares)
        if not sound or not 1 <= self.zoom[0] <= self.zoom[1] or not self.intensity_range[0] < self.intensity_range[1]:
            raise SettingsError(
                f"impossible crop settings {self}",
                remedy="Sizes and numbers are 1 or more, probabilities 0 to 1, ranges rise, zooms begin at 1",
            )


@dataclass
class CaseReader:
    """Reads boxes of prepared cases, unpacking only the chunks they touch; files stay open."""

    def __post_init__(self) -> None:
        self._open: OrderedDict[str, tuple[Any, Any, Any, Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}  # open files do not travel to another process

    def centre(self, case: PreparedCase, positive: bool, generator: torch.Generator) -> tuple[int, int, int]:
        """A random voxel of a structure, or of background; of the other kind where there is none."""
        _, _, foreground, background = self._files(case)
        chosen, other = (foreground, background) if positive else (background, foreground)
        positions = chosen if len(chosen) else other
        x, y, z = (int(i) for i in positions[int(torch.randint(len(positions), (), generator=generator))])
        return x, y, z

    def box(
        self, case: PreparedCase, start: Triple, length: Triple
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Image in [0, 1] and structure numbers of a box; beyond the volume 0 and background.

        Raises:
            VolumeError: the stored files are missing or damaged.
        """
        image, label, _, _ = self._files(case)
        values, numbers = np.zeros(length, np.float32), np.zeros(length, np.uint8)
        source = tuple(slice(max(s, 0), min(s + n, size)) for s, n, size in zip(start, length, case.shape, strict=True))
        target = tuple(slice(part.start - s, part.stop - s) for part, s in zip(source, start, strict=True))
        try:
            values[target] = image[source]
            numbers[target] = label[source]
        except UNREADABLE as error:
            raise self._damaged(case, error) from error
        values *= np.float32(1 / LARGEST_CODE)
        return values, numbers

    def _files(self, case: PreparedCase) -> tuple[Any, Any, Any, Any]:
        key = str(case.folder)
        if key not in self._open:
            try:
                image = open_packed(case.folder / IMAGE_FILE, case.shape, np.int16)
                label = open_packed(case.folder / LABEL_FILE, case.shape, np.uint8)
                centres = [
                    np.load(case.folder / file, mmap_mode="r", allow_pickle=False)
                    for file in (FOREGROUND_FILE, BACKGROUND_FILE)
                ]
            except UNREADABLE as error:
                raise self._damaged(case, error) from error
            self._open[key] = (image, label, centres[0], centres[1])
        self._open.move_to_end(key)
        while len(self._open) > _OPEN_CASES:
            self._open.popitem(last=False)
        return self._open[key]

    @staticmethod
    def _damaged(case: PreparedCase, error: BaseException) -> VolumeError:
        return VolumeError(
            f"the prepared files of {case.name} cannot be read ({error})",
            path=case.folder,
            remedy="Delete that folder; the next start prepares the case again",
        )


def draw_crops(
    reader: CaseReader, case: PreparedCase, settings: LabelledCropSettings, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """All crops of one sample.

    Returns:
        Images (N, 1, X, Y, Z) float32 in ``intensity_range`` (beyond it after a shift of the brightness) and
        structure numbers (N, X, Y, Z) uint8.

    Raises:
        VolumeError: the stored files are missing or damaged.
    """
    zoom = 1.0
    if case.label_map.zoom and _chance(generator) < settings.zoom_probability:
        zoom = settings.zoom[0] + (settings.zoom[1] - settings.zoom[0]) * _chance(generator)
    images, labels = [], []
    for _ in range(settings.number):
        image, label = _cut(reader, case, settings, zoom, generator)
        image, label = _turned(image, label, settings.turn_probability, generator)
        if _chance(generator) < settings.shift_probability:
            image = image + settings.shift * (2 * _chance(generator) - 1)
        images.append(image)
        labels.append(label)
    low, high = settings.intensity_range
    return torch.stack(images)[:, None] * (high - low) + low, torch.stack(labels)


def box_around(centre: Triple, length: Triple, shape: Triple) -> Triple:
    """The corner of a box of ``length`` around a voxel, moved into the volume.

    A volume that is smaller than the box lies in its middle (MONAI's symmetric padding).
    """
    corner = []
    for place, side, size in zip(centre, length, shape, strict=True):
        most = size - side
        corner.append(min(max(place - side // 2, 0), most) if most >= 0 else -((side - size) // 2))
    return corner[0], corner[1], corner[2]


def _cut(
    reader: CaseReader, case: PreparedCase, settings: LabelledCropSettings, zoom: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(X, Y, Z) of both, resized if magnified."""
    positive = _chance(generator) < settings.positive
    x, y, z = (max(1, round(side / zoom)) for side in settings.size)
    centre = reader.centre(case, positive, generator)
    values, numbers = reader.box(case, box_around(centre, (x, y, z), case.shape), (x, y, z))
    image, label = torch.from_numpy(values), torch.from_numpy(numbers)
    if (x, y, z) == settings.size:
        return image, label
    image = F.interpolate(image[None, None], size=settings.size, mode="trilinear", align_corners=False)[0, 0]
    label = F.interpolate(label[None, None].float(), size=settings.size, mode="nearest-exact")[0, 0].to(torch.uint8)
    return image, label


def _turned(
    image: torch.Tensor, label: torch.Tensor, probability: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A quarter, half or three-quarter turn in the plane of the slices; of unequal sides only the half one."""
    turned, quarters = _chance(generator) < probability, int(torch.randint(1, 4, (), generator=generator))
    if not turned or (image.shape[0] != image.shape[1] and quarters != 2):
        return image, label
    return torch.rot90(image, quarters, (0, 1)), torch.rot90(label, quarters, (0, 1))


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
