"""Synthetic volumes, drawn by formulas: for demos and tests without any download. They are no patients.

Each volume shows a body with soft shapes in it. Two are labelled: a large bright "ellipsoid" and a long, curved, dark
"tube". Small blobs are as bright or as dark as they are, so that no threshold finds the labels: size and shape decide.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.files import atomic_file
from fm3d_core.volumes.cases import Case
from fm3d_core.volumes.writing import write_nifti

SYNTHETIC_LABELS = ("ellipsoid", "tube")  # label values 1 and 2

_Field = npt.NDArray[np.float32]
_Point = npt.NDArray[np.float64]


def draw_case(
    seed: int, *, shape: tuple[int, int, int] = (48, 48, 40)
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Draw one synthetic volume; the same seed gives the same volume.

    Contrast, noise, bias field, deformation, spacing (1 to 1.3 mm, every fourth volume with slices up to twice as
    thick) and orientation vary from seed to seed.

    Args:
        seed: any whole number from 0.
        shape: voxels; at least 24 each.

    Returns:
        image (X, Y, Z) float32, label (X, Y, Z) uint8 (0 background, 1 ellipsoid, 2 tube), affine (4, 4) to RAS+ mm.
    """
    random = np.random.default_rng(seed)
    spacing = np.array([1.0, 1.0, 1.0]) * random.uniform(1.0, 1.3)
    if random.random() < 0.25:
        spacing[2] *= random.uniform(1.3, 2.0)
    place = _deformed_places(random, shape)
    body = _ellipsoid(place, np.zeros(3), np.array([0.92, 0.92, 0.95]))
    ellipsoid, tube = _structures(random, place)
    level, contrast = random.uniform(380, 500), random.uniform(240, 380)
    image = level * _soft(body) * (1 + 0.06 * _smooth_noise(random, shape, 6))
    image += contrast * random.uniform(0.9, 1.1) * _soft(ellipsoid)
    image -= 0.85 * contrast * random.uniform(0.9, 1.1) * _soft(tube)
    for number, field in enumerate(_distractors(random, place, [ellipsoid, tube])):
        image += (contrast if number % 2 else -0.85 * contrast) * random.uniform(0.8, 1.2) * _soft(field)
    image *= 1 + 0.15 * _smooth_noise(random, shape, 2)  # bias field of the coil
    image += random.normal(0, random.uniform(0.08, 0.14) * contrast, shape)
    label = np.zeros(shape, np.uint8)
    label[ellipsoid < 0] = 1
    label[tube < 0] = 2
    return image.astype(np.float32), label, _affine(random, spacing, shape)


def write_synthetic_cases(
    folder: str | Path, count: int, seed: int = 0, *, shape: tuple[int, int, int] = (48, 48, 40)
) -> list[Case]:
    """Write ``count`` synthetic cases as ``images/`` and ``labels/`` (.nii.gz) and ``labels.json`` ({"1": name}).

    Args:
        folder: made if needed.
        seed: of the first case; the next ones follow.

    Raises:
        StorageError: disk full, no permission.
    """
    folder = Path(folder)
    cases = []
    for number in range(seed, seed + count):
        image, label, affine = draw_case(number, shape=shape)
        name = f"synthetic_{number:03d}"
        image_path, label_path = (folder / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
        write_nifti(image_path, np.rint(image).astype(np.int16), affine)
        write_nifti(label_path, label, affine)
        cases.append(Case(name, image_path, label_path))
    with atomic_file(folder / "labels.json") as temporary:
        names = {str(value): name for value, name in enumerate(SYNTHETIC_LABELS, start=1)}
        temporary.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    return cases


# Shapes are signed fields over places in [-1, 1]^3: negative inside, about the distance to the surface near it.


def _deformed_places(random: np.random.Generator, shape: tuple[int, int, int]) -> list[_Field]:
    """The three coordinates of each voxel in [-1, 1], smoothly displaced."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    return [field + np.float32(0.1) * _smooth_noise(random, shape, 3) for field in np.meshgrid(*axes, indexing="ij")]


def _smooth_noise(random: np.random.Generator, shape: tuple[int, int, int], knots: int) -> _Field:
    """A random field of about unit size that varies over ``1 / knots`` of the volume."""
    from scipy.ndimage import map_coordinates

    coarse = random.uniform(-1, 1, (knots + 1,) * 3)
    axes = [np.linspace(0, knots, size) for size in shape]
    for axis in range(3):  # separable: three small interpolations in place of one large one
        index = [np.arange(size) if other != axis else axes[axis] for other, size in enumerate(coarse.shape)]
        coarse = map_coordinates(
            coarse, np.meshgrid(*index, indexing="ij"), order=3 if knots >= 3 else 1, mode="nearest"
        )
    return coarse.astype(np.float32)


def _ellipsoid(place: list[_Field], centre: _Point, radii: _Point) -> _Field:
    squares = [((field - c) / r) ** 2 for field, c, r in zip(place, centre, radii, strict=True)]
    field: _Field = ((np.sqrt(sum(squares)) - 1) * radii.min()).astype(np.float32)
    return field


def _tube(place: list[_Field], points: npt.NDArray[np.float64], radius: float) -> _Field:
    """A tube of constant radius around a chain of points."""
    nearest: Any = np.inf
    for start, end in itertools.pairwise(points):
        along = end - start
        share = sum((field - s) * a for field, s, a in zip(place, start, along, strict=True)) / (along @ along)
        share = np.clip(share, 0, 1)
        squares = sum((field - s - share * a) ** 2 for field, s, a in zip(place, start, along, strict=True))
        nearest = np.minimum(nearest, squares)
    field: _Field = (np.sqrt(nearest) - radius).astype(np.float32)
    return field


def _structures(random: np.random.Generator, place: list[_Field]) -> tuple[_Field, _Field]:
    """The labelled ellipsoid on one side, the labelled tube on the other."""
    angle = random.uniform(0, 2 * np.pi)
    side = np.array([np.cos(angle), np.sin(angle), 0.0])
    across = np.array([-side[1], side[0], 0.0])
    centre = 0.36 * side + np.array([0, 0, random.uniform(-0.3, 0.3)])
    ellipsoid = _ellipsoid(place, centre, random.uniform(0.27, 0.40, 3))
    bend, shift, turn = random.uniform(-0.25, 0.25), random.uniform(0.36, 0.46), random.uniform(-0.3, 0.3)
    steps = np.linspace(-1, 1, 7)[:, None]
    up = np.array([0.0, 0.0, 0.72])
    points = -shift * side + steps * (up + turn * across) + bend * (1 - steps**2) * across
    return ellipsoid, _tube(place, points, random.uniform(0.13, 0.17))


def _distractors(random: np.random.Generator, place: list[_Field], structures: list[_Field]) -> list[_Field]:
    """Up to eight small blobs where the structures leave room."""
    found: list[_Field] = []
    taken = np.minimum(*structures)
    for _ in range(40):
        if len(found) == 8:
            break
        where, radius = random.uniform(-0.65, 0.65, 3), random.uniform(0.10, 0.18)
        field = _ellipsoid(place, where, radius * random.uniform(0.8, 1.2, 3))
        if not ((field < 0.08) & (taken < 0.02)).any():
            taken = np.minimum(taken, field)
            found.append(field)
    return found


def _soft(field: _Field) -> _Field:
    """1 inside, 0 outside, with a border about a voxel wide."""
    soft: _Field = 1 / (1 + np.exp(np.clip(field * 50, -30, 30)))
    return soft


def _affine(
    random: np.random.Generator, spacing: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> npt.NDArray[np.float64]:
    """Spacing, a small tilt, in half of the cases DICOM's left-posterior axes; the middle lies near the origin."""
    from scipy.spatial.transform import Rotation

    flips = np.array([-1.0, -1.0, 1.0]) if random.random() < 0.5 else np.ones(3)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", random.uniform(-8, 8, 3), degrees=True).as_matrix() * flips * spacing
    affine[:3, 3] = random.uniform(-30, 30, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine
