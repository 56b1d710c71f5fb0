"""A random anatomy: shapes in a common space, from which any number of patients is made.

Random shapes as training material for networks that shall know no one organ: Billot et al. 2023 (SynthSeg), Hoffmann
et al. 2022 (SynthMorph), Dey et al. 2025 (anatomix). Theirs come from real label maps or noise; here all is procedural.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fm3d_core.pretraining.synthetic_anatomy.random_numbers import (
    chance,
    log_uniform,
    rotation,
    uniform,
    uniform_vector,
    whole,
)


@dataclass(frozen=True)
class Blob:
    """An organ: an ellipsoid or rounded box with a bumpy surface.

    Attributes:
        centre, radii: (3,) in the common space [-1, 1]^3.
        turn: (3, 3) rotation.
        power: 2 is an ellipsoid, more is a rounded box.
        bumps: height of the surface's unevenness, relative to the radius; ``bump_field`` (1, n, n, n) says where.
        wall: thickness of an outer layer that is a structure of its own, relative to the radius; 0 has none.
        cut_axis: the axis (0 to 2) across which it is divided into two structures that touch; None is one.
    """

    centre: torch.Tensor
    radii: torch.Tensor
    turn: torch.Tensor
    power: float
    bumps: float
    bump_field: torch.Tensor
    wall: float
    cut_axis: int | None

    @property
    def labels(self) -> int:
        """Structures it consists of."""
        return 2 if self.wall or self.cut_axis is not None else 1


@dataclass(frozen=True)
class Tube:
    """A vessel, nerve or bowel along a quadratic Bezier curve.

    Attributes:
        ends: (3, 3) first point, control point, last point.
        radius: in the common space.
        wall: as of :class:`Blob`.
    """

    ends: torch.Tensor
    radius: float
    wall: float

    @property
    def labels(self) -> int:
        """Structures it consists of."""
        return 2 if self.wall else 1


@dataclass(frozen=True)
class Body:
    """The outline of the patient with layers under its surface; outside of it is air.

    Attributes:
        radii: (3,) in the common space; beyond 1 the border lies outside of the volume.
        power: as of :class:`Blob`.
        layers: thickness of each layer from the surface inwards, relative to the radius.
    """

    radii: torch.Tensor
    power: float
    layers: tuple[float, ...]


@dataclass(frozen=True)
class Anatomy:
    """What the patients of one population have in common.

    Attributes:
        regions: (R, n, n, n) smooth fields; the largest says which tissue fills a place. R of 1 is one tissue.
        shapes: drawn over it, in this order.
        body: None fills the whole volume.
    """

    regions: torch.Tensor
    shapes: tuple[Blob | Tube, ...]
    body: Body | None

    @property
    def labels(self) -> int:
        """Number of labels: tissues, structures, layers and air."""
        outside = len(self.body.layers) + 1 if self.body else 0
        return len(self.regions) + sum(shape.labels for shape in self.shapes) + outside

    @property
    def air(self) -> int | None:
        """The label of what is outside of the body."""
        return self.labels - 1 if self.body else None


def draw_anatomy(generator: torch.Generator) -> Anatomy:
    """A new anatomy: 3 to 15 organs and tubes in 1 to 5 tissues, in three of five cases inside of a body."""
    body = _draw_body(generator) if chance(0.6, generator) else None
    tissues, knots = whole(1, 5, generator), whole(3, 6, generator)
    regions = torch.randn(tissues, knots, knots, knots, generator=generator)
    scale = log_uniform(0.6, 1.4, generator)
    shapes = [
        _draw_blob(scale, generator) if chance(0.72, generator) else _draw_tube(scale, generator)
        for _ in range(whole(3, 15, generator))
    ]
    return Anatomy(regions, tuple(shapes), body)


def _draw_blob(scale: float, generator: torch.Generator) -> Blob:
    radii = scale * log_uniform(0.08, 0.5, generator) * torch.exp(uniform_vector(-0.5, 0.5, 3, generator))
    knots = whole(4, 9, generator)
    return Blob(
        centre=uniform_vector(-0.8, 0.8, 3, generator),
        radii=radii,
        turn=rotation(torch.pi, generator),
        power=uniform(1.6, 3.5, generator),
        bumps=uniform(0, 0.35, generator),
        bump_field=torch.randn(1, knots, knots, knots, generator=generator),
        wall=uniform(0.1, 0.4, generator) if chance(0.25, generator) else 0.0,
        cut_axis=whole(0, 2, generator) if chance(0.2, generator) else None,
    )


def _draw_tube(scale: float, generator: torch.Generator) -> Tube:
    first, last = uniform_vector(-1.1, 1.1, 3, generator), uniform_vector(-1.1, 1.1, 3, generator)
    control = (first + last) / 2 + uniform_vector(-0.7, 0.7, 3, generator)
    return Tube(
        ends=torch.stack([first, control, last]),
        radius=scale * log_uniform(0.04, 0.18, generator),
        wall=uniform(0.2, 0.4, generator) if chance(0.25, generator) else 0.0,
    )


def _draw_body(generator: torch.Generator) -> Body:
    return Body(
        radii=uniform_vector(0.75, 1.3, 3, generator),
        power=uniform(2, 4, generator),
        layers=tuple(uniform(0.04, 0.15, generator) for _ in range(whole(0, 2, generator))),
    )
