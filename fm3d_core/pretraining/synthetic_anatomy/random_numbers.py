"""Small helpers for random fields and numbers, each drawn from a generator that the caller gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fm3d_core.volumes.rotations import turned


def generator_of(seed: int) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def chance(probability: float, generator: torch.Generator) -> bool:
    """True with this probability."""
    return float(torch.rand((), generator=generator)) < probability


def whole(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number between ``low`` and ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A number between ``low`` and ``high``, evenly spread on a logarithmic scale."""
    return math.exp(uniform(math.log(low), math.log(high), generator))


def uniform_vector(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) numbers between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(count, generator=generator)


def rotation(largest: float, generator: torch.Generator) -> torch.Tensor:
    """A product of rotations about the three axes, each angle up to ``largest`` radians: (3, 3)."""
    return turned(torch.eye(3), uniform_vector(-largest, largest, 3, generator))


def smooth_field(channels: int, size: Sequence[int], cells: float, generator: torch.Generator) -> torch.Tensor:
    """Smooth noise (channels, X, Y, Z) of unit deviation at its knots, ``cells`` of which span the longest axis."""
    knots = [max(2, round(cells * length / max(size)) + 1) for length in size]
    noise = torch.randn(1, channels, *knots, generator=generator)
    return F.interpolate(noise, size=tuple(size), mode="trilinear", align_corners=True)[0]


def resized(field: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A field (X, Y, Z) on another grid over the same space, trilinear."""
    return F.interpolate(field[None, None], size=tuple(size), mode="trilinear", align_corners=True)[0, 0]


def look_up(field: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Values of a field (C, x, y, z) over [-1, 1]^3, mirrored beyond, at ``positions`` (3, X, Y, Z): (C, X, Y, Z)."""
    grid = positions.flip(0).movedim(0, -1)[None]  # grid_sample wants Z, Y, X last
    return F.grid_sample(field[None], grid, align_corners=True, padding_mode="reflection")[0]
