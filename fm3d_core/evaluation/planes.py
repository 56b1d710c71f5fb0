"""A volume in three planes, with colours or a map of values over it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.files import atomic_file

PLANES = ("axial", "coronal", "sagittal")
_PANEL_INCHES, _DOTS_PER_INCH, _LONG = 2.4, 100, 5  # more panels than this stand in two columns
_LOW, _HIGH = 0.5, 99.5  # percentiles that are black and white
_WEAKEST, _STRONGEST = 5.0, 99.5  # percentiles of a map that are transparent and its strongest colour
_OPACITY = 0.75


@dataclass(frozen=True)
class PlanesPanel:
    """One volume to draw.

    Attributes:
        name: stands beside it.
        colours: (X, Y, Z, 3) uint8 shown instead of the image; None: the image is shown.
        values: (X, Y, Z), a map over the image, more opaque where it is higher; None: none.
    """

    name: str
    colours: npt.NDArray[np.uint8] | None = None
    values: npt.NDArray[np.floating[Any]] | None = None


def draw_planes(
    path_png: str | Path,
    image: npt.NDArray[Any],
    spacing: tuple[float, float, float],
    panels: Sequence[PlanesPanel],
    position: tuple[int, int, int],
    title: str = "",
) -> Path:
    """Draw panels of an axial, a coronal and a sagittal plane each, in true proportions.

    Shown as radiologists look at it: the patient's right is on the left, front or head is up.

    Args:
        path_png: written atomically.
        image: (X, Y, Z) in RAS.
        spacing: mm.
        panels: what is drawn of it.
        position: the voxel that all three planes go through.
        title: above all.

    Returns:
        ``path_png``.

    Raises:
        StorageError: disk full, no permission.
    """
    content = planes_png(image, spacing, panels, position, title)
    with atomic_file(path_png) as temporary:
        temporary.write_bytes(content)
    return Path(path_png)


def planes_png(
    image: npt.NDArray[Any],
    spacing: tuple[float, float, float],
    panels: Sequence[PlanesPanel],
    position: tuple[int, int, int],
    title: str = "",
) -> bytes:
    """The same as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    columns = 1 if len(panels) <= _LONG else 2
    lines = math.ceil(len(panels) / columns)
    widths, heights = zip(*(plane_millimetres(image.shape, spacing, plane) for plane in PLANES), strict=True)
    scale = 3 * _PANEL_INCHES / sum(widths)
    size = (columns * sum(widths) * scale + 0.8, lines * (max(heights) * scale + 0.25) + 0.5)
    # Figure without pyplot: no global state, no display needed.
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, 3 * columns, squeeze=False, gridspec_kw={"width_ratios": widths * columns})
    black, white = (float(value) for value in np.percentile(image, (_LOW, _HIGH)))
    for axis in axes.flat:
        axis.axis("off")
    for number, panel in enumerate(panels):
        line, column = divmod(number, columns)
        for index, plane in enumerate(PLANES):
            axis = axes[line][3 * column + index]
            _draw_plane(axis, image, spacing, panel, plane, position, (black, max(white, black + 1e-6)))
        axes[line][3 * column].set_title(panel.name, loc="left", fontsize=9)
    if title:
        figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return file.getvalue()


def plane_of(array: npt.NDArray[Any], plane: str, position: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Rows and columns of one of :data:`PLANES` through a voxel, of an array (X, Y, Z, ...) in RAS.

    The patient's right is on the left; in the sagittal plane the front is.
    """
    x, y, z = position
    cut = {"axial": array[::-1, ::-1, z], "coronal": array[::-1, y, ::-1], "sagittal": array[x, ::-1, ::-1]}[plane]
    return cut.swapaxes(0, 1)


def plane_millimetres(shape: Sequence[int], spacing: tuple[float, float, float], plane: str) -> tuple[float, float]:
    """Width and height of a plane in mm."""
    x, y, z = (count * step for count, step in zip(shape, spacing, strict=False))
    return {"axial": (x, y), "coronal": (x, z), "sagittal": (y, z)}[plane]


def middle_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel in the middle of what is marked, of the array if nothing is."""
    if not mask.any():
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    x, y, z = (
        round(float(np.average(np.arange(size), weights=_along(mask, axis)))) for axis, size in enumerate(mask.shape)
    )
    return x, y, z


def _along(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    return np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))


def _draw_plane(
    axis: Any,
    image: npt.NDArray[Any],
    spacing: tuple[float, float, float],
    panel: PlanesPanel,
    plane: str,
    position: tuple[int, int, int],
    range_: tuple[float, float],
) -> None:
    width, height = plane_millimetres(image.shape, spacing, plane)
    extent = (0, width, height, 0)
    if panel.colours is not None:
        axis.imshow(plane_of(panel.colours, plane, position), extent=extent, interpolation="nearest")
        return
    axis.imshow(plane_of(image, plane, position), cmap="gray", vmin=range_[0], vmax=range_[1], extent=extent)
    if panel.values is not None:
        weakest, strongest = (float(end) for end in np.percentile(panel.values, (_WEAKEST, _STRONGEST)))
        shown = (plane_of(panel.values, plane, position) - weakest) / max(strongest - weakest, 1e-12)
        shown = np.clip(shown, 0, 1)
        axis.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=shown * _OPACITY, extent=extent)
