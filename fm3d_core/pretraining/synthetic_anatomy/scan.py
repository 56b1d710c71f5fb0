"""How a label map looks in a scanner: each structure its brightness and texture, the whole its blur, bias and noise.

After Billot et al. 2023 (SynthSeg, section 3.3): a random Gaussian per label, blur, bias field, low resolution, noise,
gamma. Here the brightnesses come from a small palette, because in a real scan neighbours often look alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fm3d_core.pretraining.synthetic_anatomy.random_numbers import (
    chance,
    log_uniform,
    smooth_field,
    uniform,
    whole,
)


@dataclass(frozen=True)
class Scanner:
    """One way of imaging an anatomy.

    Attributes:
        brightness, texture: (labels,) mean and deviation of each structure.
        texture_cells: how fine the texture is.
        blur: of the image, in voxels (standard deviation).
        noise: standard deviation, where brightness spans about 0 to 1.
        slice_axis, slice_voxels: slices of so many voxels along this axis; 1 voxel is isotropic.
        gamma: exponent of the scaled image.
    """

    brightness: torch.Tensor
    texture: torch.Tensor
    texture_cells: float
    blur: float
    noise: float
    slice_axis: int
    slice_voxels: int
    gamma: float


def draw_scanner(labels: int, air: int | None, generator: torch.Generator) -> Scanner:
    """A random one for an anatomy with so many labels; ``air`` is dark as a rule and has no texture."""
    palette = torch.rand(whole(3, 11, generator), generator=generator)
    brightness = palette[torch.randint(len(palette), (labels,), generator=generator)]
    brightness = brightness + 0.04 * torch.randn(labels, generator=generator)
    texture = 0.15 * torch.rand(labels, generator=generator) ** 2
    if air is not None:
        texture[air] = 0
        if chance(0.85, generator):
            brightness[air] = 0
    return Scanner(
        brightness=brightness,
        texture=texture,
        texture_cells=uniform(6, 20, generator),
        blur=uniform(0, 0.8, generator),
        noise=0.12 * uniform(0, 1, generator) ** 2,
        slice_axis=whole(0, 2, generator),
        slice_voxels=whole(2, 3, generator) if chance(0.3, generator) else 1,
        gamma=log_uniform(0.74, 1.35, generator),
    )


def scan(label: torch.Tensor, scanner: Scanner, generator: torch.Generator) -> torch.Tensor:
    """An image (X, Y, Z) float32 in [-1, 1] of a label map (X, Y, Z)."""
    size = tuple(label.shape)
    brightness = scanner.brightness + 0.03 * torch.randn(len(scanner.brightness), generator=generator)
    grain = smooth_field(1, size, scanner.texture_cells, generator)[0] + 0.7 * torch.randn(size, generator=generator)
    image = blurred(brightness[label] + scanner.texture[label] * grain, scanner.blur)
    if scanner.slice_voxels > 1:
        image = _thick_slices(image, scanner.slice_axis, scanner.slice_voxels)
    if chance(0.5, generator):
        image = image * torch.exp(smooth_field(1, size, 2, generator)[0] * uniform(0, 0.25, generator))
    image = image + scanner.noise * torch.randn(size, generator=generator)
    ends = torch.quantile(image.flatten()[:: max(1, image.numel() // 20_000)], torch.tensor([0.005, 0.995]))
    low, high = ends.tolist()
    return ((image - low) / (high - low + 1e-6)).clamp(0, 1) ** scanner.gamma * 2 - 1


def blurred(image: torch.Tensor, deviation: float) -> torch.Tensor:
    """(X, Y, Z) after a Gaussian filter of so many voxels; below 0.2 nothing changes."""
    if deviation < 0.2:
        return image
    radius = max(1, math.ceil(2.5 * deviation))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * deviation**2))
    kernel /= kernel.sum()
    result = image[None, None]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis] = len(kernel)
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius  # F.pad counts axes from the last
        result = F.conv3d(F.pad(result, padding, mode="replicate"), kernel.reshape(1, 1, *shape))
    return result[0, 0]


def _thick_slices(image: torch.Tensor, axis: int, voxels: int) -> torch.Tensor:
    size = list(image.shape)
    size[axis] = max(2, size[axis] // voxels)
    slices = F.adaptive_avg_pool3d(image[None, None], (size[0], size[1], size[2]))
    return F.interpolate(slices, size=tuple(image.shape), mode="trilinear", align_corners=False)[0, 0]
