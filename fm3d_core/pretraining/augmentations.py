"""Random changes of crops for self-distillation: orientation, intensity, sharpness, ringing.

The changes, their probabilities and ranges are those of Xu et al. 2025 (3DINO); each change computes what MONAI's
transform of that name does, from an explicit generator. Crops are (1, X, Y, Z) float32, about [-1, 1].

A recipe is data: a sequence of groups; of each group one change is picked evenly and done with its probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.crops import along_axes

Change = Literal["contrast", "noise", "histogram", "smooth", "sharpen", "gibbs"]
Group = tuple[tuple[Change, float], ...]

INTENSITY: Group = (("contrast", 0.8), ("noise", 0.8), ("histogram", 0.8))
FIRST_GLOBAL: tuple[Group, ...] = (INTENSITY, (("smooth", 1.0), ("sharpen", 1.0)))
SECOND_GLOBAL: tuple[Group, ...] = (INTENSITY, (("smooth", 0.1), ("sharpen", 0.1)), (("gibbs", 0.2),))
LOCAL: tuple[Group, ...] = (INTENSITY, (("smooth", 0.5),))


@dataclass(frozen=True)
class AugmentationSettings:
    """What happens to the crops.

    Attributes:
        global_crops: the recipe of each global view; a view beyond the last takes the last.
        local_crops: the recipe of all local views.
        flip: probability along each axis; rotate: of a quarter, half or three-quarter turn in each plane.
        gamma: exponents of the contrast.
        noise: largest standard deviation; it is drawn from 0 on.
        control_points: of the histogram shift.
        smooth_sigma: in voxels, drawn for each axis.
        sharpen_sigma: of the first blur, drawn for each axis; the second's is drawn from the lower end to it.
        sharpen_strength: how much of what the second blur takes away is added.
        gibbs: how much of k-space is cut off: 0 nothing, 1 everything.

    Raises:
        SettingsError: an unknown change, or a probability outside of [0, 1].
    """

    global_crops: tuple[tuple[Group, ...], ...] = (FIRST_GLOBAL, SECOND_GLOBAL)
    local_crops: tuple[Group, ...] = LOCAL
    flip: float = 0.3
    rotate: float = 0.3
    gamma: tuple[float, float] = (0.5, 2.0)
    noise: float = 0.002
    control_points: int = 10
    smooth_sigma: tuple[float, float] = (0.25, 1.5)
    sharpen_sigma: tuple[float, float] = (0.5, 1.0)
    sharpen_strength: tuple[float, float] = (10.0, 30.0)
    gibbs: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        groups = [group for recipe in (*self.global_crops, self.local_crops) for group in recipe]
        changes = [change for group in groups for change in group]
        chances = [self.flip, self.rotate, *(chance for _, chance in changes)]
        if unknown := [name for name, _ in changes if name not in get_args(Change)]:
            raise SettingsError(f"unknown change '{unknown[0]}'", remedy=f"Choose of {', '.join(get_args(Change))}")
        if not all(0 <= chance <= 1 for chance in chances) or not all(groups):
            raise SettingsError("a change without a probability from 0 to 1", remedy="Correct the augmentation")


def augment(
    crop: torch.Tensor, recipe: tuple[Group, ...], settings: AugmentationSettings, generator: torch.Generator
) -> torch.Tensor:
    """Flip, turn and change a (1, X, Y, Z) crop; the same generator state gives the same result."""
    return augment_with_axes(crop, recipe, settings, generator)[0]


def augment_with_axes(
    crop: torch.Tensor, recipe: tuple[Group, ...], settings: AugmentationSettings, generator: torch.Generator
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """:func:`augment`, and which axis of ``crop`` lies along each axis of the result: its voxel sizes turned too."""
    crop, axes = _flip_and_turn(crop, settings.flip, settings.rotate, generator)
    for group in recipe:
        name, probability = group[int(torch.randint(len(group), (), generator=generator))]
        if _chance(generator) < probability:
            crop = _change(name, crop, settings, generator)
    return crop.contiguous(), axes


def flip_and_turn(crop: torch.Tensor, flip: float, rotate: float, generator: torch.Generator) -> torch.Tensor:
    """Flips along each axis, then turns by 90, 180 or 270 degrees in each plane of equal sides."""
    return _flip_and_turn(crop, flip, rotate, generator)[0]


def _flip_and_turn(
    crop: torch.Tensor, flip: float, rotate: float, generator: torch.Generator
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    axes = [0, 1, 2]
    crop = crop.flip([axis + 1 for axis in range(3) if _chance(generator) < flip])
    for first, second in ((1, 2), (2, 3), (1, 3)):
        turned, quarters = _chance(generator) < rotate, int(torch.randint(1, 4, (), generator=generator))
        if turned and (crop.shape[first] == crop.shape[second] or quarters == 2):  # the crop keeps its shape
            crop = torch.rot90(crop, quarters, (first, second))
            if quarters != 2:
                axes[first - 1], axes[second - 1] = axes[second - 1], axes[first - 1]
    return crop, (axes[0], axes[1], axes[2])


def change_contrast(crop: torch.Tensor, gamma: float) -> torch.Tensor:
    """The gamma curve between the crop's smallest and largest value."""
    low, high = crop.aminmax()
    span = high - low
    return ((crop - low) / (span + 1e-7)) ** gamma * span + low


def shift_histogram(crop: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The piecewise linear curve through ``points`` (K,) in [0, 1], which stand at even steps from low to high.

    A constant crop stays as it is.
    """
    low, high = crop.aminmax()
    span = high - low
    if span == 0:
        return crop
    pieces = len(points) - 1
    place = (crop - low) * (pieces / span)
    piece = place.to(torch.int32).clamp_(0, pieces - 1)
    rises = points.diff()
    intercepts = points[:-1] - rises * torch.arange(pieces)
    return (rises[piece] * place + intercepts[piece]) * span + low


def smooth(crop: torch.Tensor, sigma: tuple[float, float, float]) -> torch.Tensor:
    """Gaussian blur with ``sigma`` in voxels along each axis, cut at 4 sigma; beyond the border lies 0."""
    matrices = [gaussian_weights(size, width) for size, width in zip(crop.shape[1:], sigma, strict=True)]
    return along_axes(crop[0], [matrix.to(crop) for matrix in matrices])[None]


def sharpen(
    crop: torch.Tensor,
    first: tuple[float, float, float],
    second: tuple[float, float, float],
    strength: float,
) -> torch.Tensor:
    """Blur with ``first``, then add ``strength`` times what a blur with ``second`` would take away from that."""
    blurred = smooth(crop, first)
    return blurred + strength * (blurred - smooth(blurred, second))


def add_gibbs_ringing(crop: torch.Tensor, cut: float) -> torch.Tensor:
    """Keep of k-space the ball whose radius is ``1 - cut`` times half the diagonal of its largest square.

    As MONAI's GibbsNoise, whose ball is centred half a voxel beside the zero frequency along even axes.
    """
    sizes = crop.shape[1:]
    radius = (1 - cut) * max(sizes) * math.sqrt(2) / 2
    # fftshift puts frequency f at size // 2 + f; the ball's centre is at (size - 1) / 2
    distances = [(torch.fft.ifftshift(torch.arange(size, dtype=torch.float64)) - (size - 1) / 2) ** 2 for size in sizes]
    kept = (distances[0][:, None, None] + distances[1][:, None] + distances[2]).sqrt() <= radius
    # The real part of the result belongs to the mean of the mask and its mirror image; this is a real transform.
    mirrored = kept.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))
    share = (kept.to(crop) + mirrored.to(crop)) / 2
    half = share[..., : sizes[2] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(crop[0]) * half, s=tuple(sizes))[None]


def gaussian_weights(size: int, sigma: float) -> torch.Tensor:
    """(size, size) matrix of a Gaussian blur: the share of the bell within each voxel, cut at 4 sigma."""
    tail = int(max(4 * sigma, 0.5) + 0.5)
    offsets = torch.arange(-tail, tail + 1, dtype=torch.float64)
    scale = math.sqrt(0.5) / sigma
    kernel = 0.5 * ((scale * (offsets + 0.5)).erf() - (scale * (offsets - 0.5)).erf())
    distance = torch.arange(size)[None] - torch.arange(size)[:, None]
    inside = distance.abs() <= tail
    return torch.where(inside, kernel[distance.clamp(-tail, tail) + tail], 0.0).float()


def draw_control_points(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) values from 0 to 1, each inner one drawn between its neighbours in turn, so that they rise."""
    points = torch.linspace(0, 1, count)
    for index in range(1, count - 1):
        low, high = points[index - 1], points[index + 1]
        points[index] = low + (high - low) * _chance(generator)
    return points


def _change(
    name: Change, crop: torch.Tensor, settings: AugmentationSettings, generator: torch.Generator
) -> torch.Tensor:
    if name == "contrast":
        return change_contrast(crop, _between(settings.gamma, generator))
    if name == "noise":
        deviation = settings.noise * _chance(generator)
        return crop + deviation * torch.randn(crop.shape, generator=generator)
    if name == "histogram":
        return shift_histogram(crop, draw_control_points(settings.control_points, generator))
    if name == "smooth":
        return smooth(crop, _three(settings.smooth_sigma, generator))
    if name == "sharpen":
        first = _three(settings.sharpen_sigma, generator)
        x, y, z = (_between((settings.sharpen_sigma[0], width), generator) for width in first)
        return sharpen(crop, first, (x, y, z), _between(settings.sharpen_strength, generator))
    return add_gibbs_ringing(crop, _between(settings.gibbs, generator))


def _chance(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _between(ends: tuple[float, float], generator: torch.Generator) -> float:
    return ends[0] + (ends[1] - ends[0]) * _chance(generator)


def _three(ends: tuple[float, float], generator: torch.Generator) -> tuple[float, float, float]:
    return _between(ends, generator), _between(ends, generator), _between(ends, generator)
