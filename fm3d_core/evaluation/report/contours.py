"""Contours of truth and prediction over the image, in the planes where they differ most."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.evaluation.pictures import colours_of
from fm3d_core.evaluation.planes import PLANES, plane_millimetres, plane_of

Mask = npt.NDArray[np.bool_]
_PANEL_INCHES, _DOTS_PER_INCH = 3.2, 90
_LOW, _HIGH = 0.5, 99.5  # percentiles that are black and white


@dataclass(frozen=True)
class ContourPlane:
    """One plane of a case, small enough to be kept for many.

    Attributes:
        image: rows and columns.
        width, height: in mm.
        truth, predicted: structure -> rows and columns.
    """

    image: npt.NDArray[np.float32]
    width: float
    height: float
    truth: Mapping[str, Mask]
    predicted: Mapping[str, Mask]


@dataclass(frozen=True)
class ContourCase:
    """What is drawn of a case.

    Attributes:
        name: of the case.
        planes: axial, coronal, sagittal.
        range: the values that are black and white.
    """

    name: str
    planes: tuple[ContourPlane, ...]
    range: tuple[float, float]


def contour_case(
    name: str,
    image: npt.NDArray[Any],
    spacing: tuple[float, float, float],
    truth: Mapping[str, Mask],
    predicted: Mapping[str, Mask],
) -> ContourCase:
    """Cut out the planes in which truth and prediction differ in most voxels; without any, where most is drawn.

    Args:
        name: of the case.
        image: (X, Y, Z) in RAS.
        spacing: mm.
        truth, predicted: structure -> (X, Y, Z).
    """
    wrong = np.zeros(image.shape, bool)
    drawn = np.zeros(image.shape, bool)
    for structure, mask in truth.items():
        wrong |= mask != predicted[structure]
        drawn |= mask | predicted[structure]
    x, y, z = _fullest(wrong if wrong.any() else drawn)
    planes = []
    for plane in PLANES:
        width, height = plane_millimetres(image.shape, spacing, plane)
        cut = np.array(plane_of(image, plane, (x, y, z)), np.float32)  # a copy: the volume need not stay
        true = {each: plane_of(mask, plane, (x, y, z)).copy() for each, mask in truth.items()}
        said = {each: plane_of(mask, plane, (x, y, z)).copy() for each, mask in predicted.items()}
        planes.append(ContourPlane(cut, width, height, true, said))
    low, high = (float(value) for value in np.percentile(image, (_LOW, _HIGH)))
    return ContourCase(name, tuple(planes), (low, max(high, low + 1e-6)))


def draw_contours(case: ContourCase, structures: Sequence[str]) -> bytes:
    """A PNG file: the truth as a line, the prediction as a dashed one, each structure in its colour.

    Args:
        case: to draw.
        structures: all of the report, so that a structure has one colour in all pictures.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = dict(zip(structures, colours_of(len(structures)), strict=True))
    widths = [plane.width for plane in case.planes]
    scale = 3 * _PANEL_INCHES / sum(widths)
    size = (sum(widths) * scale, max(plane.height for plane in case.planes) * scale + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, 3, gridspec_kw={"width_ratios": widths})
    for plane, axis in zip(case.planes, axes, strict=True):
        axis.axis("off")
        extent = (0, plane.width, plane.height, 0)
        axis.imshow(plane.image, cmap="gray", vmin=case.range[0], vmax=case.range[1], extent=extent)
        for masks, style in ((plane.truth, "solid"), (plane.predicted, "dashed")):
            for structure, mask in masks.items():
                if mask.any():
                    _outline(axis, mask, plane, colours[structure], style)
        axis.set_xlim(0, plane.width)
        axis.set_ylim(plane.height, 0)
    lines = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    lines += [Line2D([], [], color="gray", label="truth"), Line2D([], [], color="gray", ls="--", label="prediction")]
    figure.legend(handles=lines, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return file.getvalue()


def _outline(axis: Any, mask: Mask, plane: ContourPlane, colour: Any, style: str) -> None:
    padded = np.pad(mask, 1).astype(float)  # a structure at the border has a closed line too
    rows, columns = mask.shape
    x = (np.arange(-1, columns + 1) + 0.5) * plane.width / columns
    y = (np.arange(-1, rows + 1) + 0.5) * plane.height / rows
    axis.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)


def _fullest(mask: Mask) -> tuple[int, int, int]:
    """Along each axis the plane with most voxels; the middle of an empty mask."""
    found = []
    for axis, size in enumerate(mask.shape):
        counts = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
        found.append(int(counts.argmax()) if counts.any() else size // 2)
    return found[0], found[1], found[2]
