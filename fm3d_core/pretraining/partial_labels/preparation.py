"""Labelled volumes made ready once: resampled, scaled, cropped, sides told apart, stored so that a crop reads its part.

On disk, for each case a folder named by the hash of its content and of how it was prepared::

    hashes.json                          sha256 of source files, known again by path, size and time
    cases/ab/ab12.../case.json           shape, spacing, structures that occur
    cases/ab/ab12.../image.b2nd          (X, Y, Z) int16 codes from 0 to 1023 over the window
    cases/ab/ab12.../label.b2nd          (X, Y, Z) uint8: structure number of the label maps' list, 0 background
    cases/ab/ab12.../foreground.npy      (N, 3) int16 voxels of structures, at most 16,384, evenly drawn
    cases/ab/ab12.../background.npy      (N, 3) int16 voxels of none, brighter than the window's lower end
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import LabelError, VolumeError
from fm3d_core.files import atomic_folder
from fm3d_core.pretraining.partial_labels.label_maps import LabelMap, LabelMaps
from fm3d_core.pretraining.partial_labels.labelled_sets import LabelledSet
from fm3d_core.pretraining.partial_labels.left_right import Rule, check_rule, split_left_right
from fm3d_core.volumes import Preprocessing, check_label, read_label, read_volume, refuse_constant
from fm3d_core.volumes.cases import Case
from fm3d_core.volumes.packed_arrays import pack

FORMAT = 1
CASE_FILE, IMAGE_FILE, LABEL_FILE = "case.json", "image.b2nd", "label.b2nd"
FOREGROUND_FILE, BACKGROUND_FILE = "foreground.npy", "background.npy"
# Codes of 10 bits over 425 HU are steps of 0.4 HU, far below the noise.
LARGEST_CODE = 1023
# Crop centres are drawn evenly from an even sample of the voxels, which is nearly the same as from all of them.
MOST_CENTRES = 16_384
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class PreparationSettings:
    """How labelled volumes are prepared; the defaults are FSEFT's.

    Attributes:
        spacing, window, percentiles: as in :class:`~fm3d_core.volumes.Preprocessing`; the foreground is what lies
            above the window's lower end, kept with a margin of 4 voxels (FSEFT: 0).
        left_right: the rule for values of both sides: "components" or "published".

    Raises:
        SettingsError: an impossible value.
    """

    spacing: tuple[float, float, float] | None = (1.5, 1.5, 1.5)
    window: tuple[float, float] | None = (-175.0, 250.0)
    percentiles: tuple[float, float] = (0.05, 99.95)
    left_right: Rule = "components"

    def __post_init__(self) -> None:
        check_rule(self.left_right)
        _ = self.preprocessing  # checks the others

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to each image."""
        return Preprocessing(self.spacing, self.percentiles, self.window, crop_foreground=True)

    def fingerprint(self) -> str:
        """Changes when anything about the preparation does."""
        return json.dumps([FORMAT, self.preprocessing.to_dict(), self.left_right])


@dataclass(frozen=True)
class PreparedCase:
    """A labelled volume in the cache.

    Attributes:
        name: "SET/CASE".
        folder: its files.
        shape: voxels.
        label_map: of its set.
        structures: numbers of the structures that occur in it.
    """

    name: str
    folder: Path
    shape: Triple
    label_map: LabelMap
    structures: tuple[int, ...] = field(default=())


def prepare_case(
    labelled_set: LabelledSet, case: Case, maps: LabelMaps, settings: PreparationSettings, root: Path, content: str
) -> PreparedCase:
    """Prepare a case, unless it is there.

    Args:
        content: hash of its image's and label's content.
        root: of the cache.

    Raises:
        UnknownValueError: a label value that the set's map does not know.
        VolumeError, LabelError: unreadable, constant, or a label on another grid.
        StorageError: disk full, no permission.
    """
    label_map = labelled_set.label_map
    text = f"{content} {settings.fingerprint()} {maps.fingerprint(label_map)}"
    key = hashlib.sha256(text.encode()).hexdigest()
    folder = root / "cases" / key[:2] / key
    name = f"{labelled_set.name}/{case.name}"
    if (there := _stored(folder, name, label_map)) is not None:
        return there
    if folder.exists():
        shutil.rmtree(folder)  # it appeared in one piece, so it was damaged since
    image, label = _prepared_arrays(case, maps, label_map, settings)
    card = {"shape": list(image.shape), "structures": [int(value) for value in np.unique(label) if value]}
    rows = _centres(image, label, int(key[:8], 16))
    try:
        with atomic_folder(folder) as temporary:
            (temporary / IMAGE_FILE).write_bytes(pack(image))
            (temporary / LABEL_FILE).write_bytes(pack(label))
            for file, positions in zip((FOREGROUND_FILE, BACKGROUND_FILE), rows, strict=True):
                np.save(temporary / file, positions)
            (temporary / CASE_FILE).write_text(json.dumps(card), encoding="utf-8")
    except FileExistsError:
        pass  # another process was quicker with the same case
    stored = _stored(folder, name, label_map)
    if stored is None:
        raise VolumeError("was prepared but cannot be read back", path=folder, remedy="Check the disk")
    return stored


class UnknownValueError(LabelError):
    """A label value that its map does not name: the map is wrong, so the whole set is refused."""


def _prepared_arrays(
    case: Case, maps: LabelMaps, label_map: LabelMap, settings: PreparationSettings
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Codes and structure numbers, on one grid."""
    if case.label is None:
        raise LabelError("has no label", path=case.image, remedy="Put a file of the same name into labels")
    label = read_label(case.label)
    known = label_map.known_values
    unknown = [int(value) for value in np.unique(label.array) if value and int(value) not in known]
    if unknown:
        raise UnknownValueError(
            f"holds the label value {unknown[0]}, which the label map '{label_map.name}' does not know",
            path=case.label,
            remedy=f"Choose another map, or add the value to values or ignored (it has {sorted(known)})",
        )
    volume = read_volume(case.image)
    refuse_constant(volume)
    check_label(label, volume, allow_empty=True)  # a set of tumours has patients without
    prepared = settings.preprocessing.prepare(volume)
    image = prepared.image[0].numpy()  # (X, Y, Z) in [-1, 1]
    values = settings.preprocessing.prepare_label(label, prepared)[0].numpy()
    # sides get values of their own above 255, so that they cannot meet the file's
    numbers = np.zeros(256 + len(label_map.left_right), np.uint8)
    for value, structure in label_map.values.items():
        numbers[value] = maps.value_of(structure)
    sides = {}
    for place, (value, structure) in enumerate(label_map.left_right.items(), start=256):
        numbers[place] = maps.value_of(structure)
        sides[value] = place
    split = split_left_right(values.astype(np.int16), sides, image, settings.left_right)
    codes = np.rint((image + 1) * np.float32(LARGEST_CODE / 2)).astype(np.int16)
    return codes, numbers[split]


def _centres(
    image: npt.NDArray[np.int16], label: npt.NDArray[np.uint8], seed: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Voxels of structures, and of visible background; without the latter all background."""
    generator = np.random.default_rng(seed)
    background = (label == 0) & (image > 0)
    if not background.any():
        background = label == 0
    return _drawn(label != 0, generator), _drawn(background, generator)


def _drawn(where: npt.NDArray[np.bool_], generator: np.random.Generator) -> npt.NDArray[np.int16]:
    positions = np.flatnonzero(where)
    if len(positions) > MOST_CENTRES:
        positions = np.sort(generator.choice(positions, MOST_CENTRES, replace=False))
    return np.stack(np.unravel_index(positions, where.shape), axis=1).astype(np.int16)


def _stored(folder: Path, name: str, label_map: LabelMap) -> PreparedCase | None:
    try:
        card: dict[str, Any] = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        x, y, z = (int(size) for size in card["shape"])
        case = PreparedCase(name, folder, (x, y, z), label_map, tuple(card["structures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    files = (IMAGE_FILE, LABEL_FILE, FOREGROUND_FILE, BACKGROUND_FILE)
    return case if all((folder / file).is_file() for file in files) else None
