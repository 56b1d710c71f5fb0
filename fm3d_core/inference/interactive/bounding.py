"""What one more click may change: what it asks for, around it, no thicker than what it was put into the middle of.

People click into the middle of what is wrong (so does the standard simulation, Xu et al. 2016). What is missed is then
nowhere much thicker than the click lies away from what was found, and what is too much nowhere thicker than the click
lies within it. A change that is thicker leaks, and is cut where it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.framing import corners_of
from fm3d_core.inference.interactive.geodesic import Mask
from fm3d_core.inference.interactive.prompts import Index

ADDED, REMOVED = 1.5, 1.0  # radius of what a click adds or removes, in its own distance to the border
THINNEST = 2.5  # in the finest spacing: changes of this radius are never cut
NEAREST = 2.0  # in the finest spacing: radius of the ball around a click in which nothing is cut


def bounded(
    before: Mask, proposed: Mask, click: Index, positive: bool, spacing: tuple[float, float, float]
) -> npt.NDArray[np.bool_]:
    """``before`` with what a click may change of it: a positive one adds, a negative one removes, where it is.

    Args:
        before: (X, Y, Z) what was found without the click.
        proposed: (X, Y, Z) what is found with it.
        click: its voxel, which is changed in any case.
        positive: whether the structure is there.
        spacing: mm.
    """
    changed = proposed & ~before if positive else before & ~proposed
    changed[click] = before[click] != positive
    result = before.copy()
    if not changed[click]:
        return result
    first, last = corners_of(changed)
    box = tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))
    place = tuple(int(index - start) for index, start in zip(click, first, strict=True))
    finest, depth = min(spacing), _depth(before, click, spacing)
    part = changed[box]
    near = _distance_to(place, part.shape, spacing) <= max(depth, NEAREST * finest)
    limit = max((ADDED if positive else REMOVED) * depth, THINNEST * finest)
    part = _connected(part & (near | ~_thicker_than(part, limit, spacing)), place)
    result[box][part] = positive
    return result


def _thicker_than(part: Mask, radius: float, spacing: tuple[float, float, float]) -> Mask:
    """Where balls of a larger radius (mm) fit in: the opening of the part."""
    from scipy import ndimage

    inner = ndimage.distance_transform_edt(np.pad(part, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    deep = inner > radius
    if not deep.any():
        return deep
    thick: Mask = ndimage.distance_transform_edt(~deep, sampling=spacing) < radius
    return thick


def _depth(before: Mask, click: Index, spacing: tuple[float, float, float]) -> float:
    """How far (mm) the click lies from the nearest voxel that is otherwise; infinite where there is none."""
    lengths = np.array(before.shape) * spacing
    reach = 8.0 * min(spacing)
    while True:  # the nearest one is near more often than not
        around = tuple(
            slice(max(int(middle - reach / step), 0), int(middle + reach / step) + 1)
            for middle, step in zip(click, spacing, strict=True)
        )
        others = np.argwhere(before[around] != before[click])
        if len(others):
            start = np.array([part.start for part in around])
            nearest = float(np.sqrt((((others + start - click) * spacing) ** 2).sum(axis=1).min()))
            if nearest <= reach:
                return nearest
        if reach > lengths.max():
            return np.inf
        reach *= 2


def _distance_to(
    place: tuple[int, ...], shape: tuple[int, ...], spacing: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    squares = sum(((axis - middle) * step) ** 2 for axis, middle, step in zip(axes, place, spacing, strict=True))
    return np.asarray(np.sqrt(squares))


def _connected(mask: Mask, place: tuple[int, ...]) -> Mask:
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    connected: Mask = parts == parts[place]
    return connected
