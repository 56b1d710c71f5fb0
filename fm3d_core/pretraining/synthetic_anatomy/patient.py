"""The label map of one patient of an anatomy: the same structures, somewhat moved, stretched and bent."""

from __future__ import annotations

import torch

from fm3d_core.pretraining.synthetic_anatomy.anatomy import Anatomy, Blob, Body, Tube
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import (
    look_up,
    resized,
    rotation,
    smooth_field,
    uniform,
    uniform_vector,
)

Size = tuple[int, int, int]
_CURVE_POINTS = 16  # of a tube: its distance is taken to these


def draw_patient(anatomy: Anatomy, size: Size, generator: torch.Generator) -> torch.Tensor:
    """The label map (X, Y, Z) int64 of a new patient; a structure has the same label in all patients.

    Distances are computed at half the resolution and interpolated, which halves the time of a sample.

    Args:
        size: in voxels.
    """
    coarse = [max(8, length // 2) for length in size]
    positions = _positions(coarse, generator)
    if len(anatomy.regions) > 1:
        fields = look_up(anatomy.regions, positions * 0.8)
        label = torch.stack([resized(field, size) for field in fields]).argmax(0)
    else:
        label = torch.zeros(size, dtype=torch.int64)
    value = len(anatomy.regions)
    for shape in anatomy.shapes:
        if isinstance(shape, Blob):
            label = _draw_blob(shape, label, value, positions, generator)
        else:
            label = _draw_tube(shape, label, value, positions, generator)
        value += shape.labels
    return label if anatomy.body is None else _draw_body(anatomy.body, label, value, positions)


def _positions(size: list[int], generator: torch.Generator) -> torch.Tensor:
    """Where each voxel of the patient lies in the common space: (3, x, y, z)."""
    axes = [torch.linspace(-1, 1, length) for length in size]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    stretch = torch.diag(torch.exp(uniform_vector(-0.15, 0.15, 3, generator)))
    affine = rotation(0.2, generator) @ stretch
    shift = uniform_vector(-0.12, 0.12, 3, generator)
    positions = torch.einsum("ij,jxyz->ixyz", affine, positions) + shift[:, None, None, None]
    bend = smooth_field(3, size, uniform(1.5, 3, generator), generator) * uniform(0.02, 0.08, generator)
    ripple = smooth_field(3, size, uniform(4, 8, generator), generator) * uniform(0, 0.025, generator)
    return positions + bend + ripple


def _draw_blob(
    blob: Blob, label: torch.Tensor, value: int, positions: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    centre = blob.centre + uniform_vector(-0.04, 0.04, 3, generator)
    radii = (blob.radii * torch.exp(uniform_vector(-0.15, 0.15, 3, generator)))[:, None, None, None]
    local = torch.einsum("ij,jxyz->ixyz", blob.turn, positions - centre[:, None, None, None])
    distance = _superellipsoid(local / radii, blob.power)
    if blob.bumps > 0.05:
        distance = distance + blob.bumps * look_up(blob.bump_field, local / (radii * 2.2))[0]
    distance = resized(distance, label.shape)
    inside = torch.where(distance < 1, value, label)
    if blob.cut_axis is not None:
        beyond = resized(local[blob.cut_axis], label.shape) > 0
        return torch.where((distance < 1) & beyond, value + 1, inside)
    return torch.where(distance < 1 - blob.wall, value + 1, inside) if blob.wall else inside


def _draw_tube(
    tube: Tube, label: torch.Tensor, value: int, positions: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    first, control, last = tube.ends + uniform_vector(-0.04, 0.04, 9, generator).reshape(3, 3)
    along = torch.linspace(0, 1, _CURVE_POINTS)[:, None]
    curve = (1 - along) ** 2 * first + 2 * along * (1 - along) * control + along**2 * last  # (points, 3)
    nearest = torch.cdist(positions.flatten(1).T, curve).amin(1).reshape(positions.shape[1:])
    distance = resized(nearest, label.shape) / tube.radius
    inside = torch.where(distance < 1, value, label)
    return torch.where(distance < 1 - tube.wall, value + 1, inside) if tube.wall else inside


def _draw_body(body: Body, label: torch.Tensor, value: int, positions: torch.Tensor) -> torch.Tensor:
    distance = resized(_superellipsoid(positions / body.radii[:, None, None, None], body.power), label.shape)
    outer = 1.0
    for layer, width in enumerate(body.layers):
        label = torch.where((distance <= outer) & (distance > outer - width), value + layer, label)
        outer -= width
    return torch.where(distance > 1, value + len(body.layers), label)


def _superellipsoid(local: torch.Tensor, power: float) -> torch.Tensor:
    """1 on the surface |x|^p + |y|^p + |z|^p = 1 of ``local`` (3, x, y, z), less inside."""
    return (local.abs().clamp(min=1e-4) ** power).sum(0) ** (1 / power)
