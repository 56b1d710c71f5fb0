"""Random resized 3D crops: a share of the plane and, apart from it, a share of the slices, resized with antialiasing.

Xu et al. 2025 (3DINO): as torchvision's random resized crop in the plane of equal spacing, a length of its own across
it. They resize without antialiasing; here each output voxel averages what it covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from fm3d_core.volumes.crop_store import CropStore

Triple = tuple[int, int, int]
Range = tuple[float, float]
Spacing = tuple[float, float, float]
_ATTEMPTS = 10  # torchvision's, and 3DINO's


@dataclass(frozen=True)
class CropSettings:
    """One kind of crop.

    Attributes:
        size: of the result, in voxels.
        number: crops of each volume.
        area: smallest and largest share of the plane.
        depth: smallest and largest share of the slices.
        aspect: smallest and largest ratio of the sides in the plane, drawn on a logarithmic scale.

    Raises:
        SettingsError: shares outside of (0, 1], in the wrong order, or no size.
    """

    size: Triple
    number: int
    area: Range
    depth: Range
    aspect: Range = (0.9, 1 / 0.9)

    def __post_init__(self) -> None:
        shares = all(0 < low <= high <= 1 for low, high in (self.area, self.depth))
        if not shares or not 0 < self.aspect[0] <= self.aspect[1] or min(self.size) < 1 or self.number < 0:
            raise SettingsError(
                f"impossible crop settings {self}", remedy="Shares rise within 0 to 1; sizes are 1 or more"
            )


# Xu et al. 2025, ssl3d_default_config and vit3d_highres
GLOBAL_CROPS = CropSettings((96, 96, 96), 2, (0.48, 1.0), (0.5, 1.0))
LOCAL_CROPS = CropSettings((48, 48, 48), 8, (0.16, 0.48), (0.2, 0.5))
GLOBAL_CROPS_HIGH_RESOLUTION = CropSettings((112, 112, 112), 2, (0.48, 1.0), (0.5, 1.0))
LOCAL_CROPS_HIGH_RESOLUTION = CropSettings((64, 64, 64), 8, (0.16, 0.48), (0.2, 0.5))


@dataclass(frozen=True)
class Box:
    """A part of a volume: corner and sides in voxels."""

    start: Triple
    length: Triple

    def spacing(self, voxel: Spacing, size: Triple) -> Spacing:
        """Voxel size in mm of this part of a volume with ``voxel`` mm, once it is resized to ``size`` voxels."""
        x, y, z = (step * length / new for step, length, new in zip(voxel, self.length, size, strict=True))
        return x, y, z


def draw_box(shape: Triple, settings: CropSettings, generator: torch.Generator) -> Box:
    """A random box of a volume whose first two axes are the plane.

    Ten tries to place a rectangle of the drawn area and aspect; then the largest one with an allowed aspect, centred.

    Args:
        shape: voxels of the volume.
    """
    plane, corner = _draw_rectangle(shape[0], shape[1], settings, generator)
    depth = min(max(round(shape[2] * _uniform(settings.depth, generator)), 1), shape[2])
    z = _whole(shape[2] - depth, generator)
    return Box((*corner, z), (*plane, depth))


def read_crop(store: CropStore, index: int, frame: int, box: Box, size: Triple) -> torch.Tensor:
    """A box of a stored volume, resized: (1, *size) float32 in [-1, 1]. Reads the coarsest level that is fine enough.

    Raises:
        VolumeError: the stored volume is missing or damaged.
    """
    import torch

    stored = store.read(index, frame, box.start, box.length, wanted=(size[0], size[1]))
    return resample(torch.from_numpy(stored.values), stored.start, stored.length, size)[None]


def resample(
    values: torch.Tensor, start: tuple[float, ...], length: tuple[float, ...], size: tuple[int, ...]
) -> torch.Tensor:
    """Resize a box of (X, Y, Z) values to ``size``: linear, and averaging where it shrinks.

    The box may begin and end inside voxels. For a whole image this is
    ``torch.nn.functional.interpolate(..., antialias=True, align_corners=False)``, which torch has in 2D only.

    Args:
        start, length: the box in voxels of ``values``, from their outer borders.
    """
    weights = [
        linear_weights(count, begin, side, new)
        for count, begin, side, new in zip(values.shape, start, length, size, strict=True)
    ]
    return along_axes(values, [weight.to(values) for weight in weights])


def linear_weights(count: int, start: float, length: float, size: int) -> torch.Tensor:
    """(size, count): how much each of ``count`` voxels gives to each of ``size`` that divide [start, start + length].

    A triangle as wide as two voxels of the coarser of both grids, cut at the borders; rows add up to 1.
    """
    import torch

    step = length / size
    width = max(step, 1.0)
    centres = start + (torch.arange(size, dtype=torch.float64) + 0.5) * step
    voxels = torch.arange(count, dtype=torch.float64) + 0.5
    weights = (1 - (voxels - centres[:, None]).abs() / width).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def along_axes(values: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Multiply each axis of (X, Y, Z) by its (new, old) matrix, the one that shrinks most first."""
    import torch

    order = sorted(range(3), key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1])
    for axis in order:
        x, y, z = values.shape
        matrix = matrices[axis]
        if axis == 0:
            values = (matrix @ values.reshape(x, y * z)).reshape(-1, y, z)
        elif axis == 1:
            values = torch.matmul(matrix, values)
        else:
            values = (values.reshape(x * y, z) @ matrix.T).reshape(x, y, -1)
    return values


def _draw_rectangle(
    x: int, y: int, settings: CropSettings, generator: torch.Generator
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sides and corner of a rectangle in a plane of x by y voxels."""
    low, high = settings.aspect
    for _ in range(_ATTEMPTS):
        area = x * y * _uniform(settings.area, generator)
        aspect = math.exp(_uniform((math.log(low), math.log(high)), generator))
        sides = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < sides[0] <= x and 0 < sides[1] <= y:
            return sides, (_whole(x - sides[0], generator), _whole(y - sides[1], generator))
    ratio = min(max(y / x, low), high)  # of the second side to the first, as in the tries
    sides = min(x, max(1, round(y / ratio))), min(y, max(1, round(x * ratio)))
    return sides, ((x - sides[0]) // 2, (y - sides[1]) // 2)


def _uniform(ends: Range, generator: torch.Generator) -> float:
    import torch

    return ends[0] + (ends[1] - ends[0]) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _whole(most: int, generator: torch.Generator) -> int:
    """A whole number from 0 to ``most``."""
    import torch

    return int(torch.randint(most + 1, (), generator=generator))
