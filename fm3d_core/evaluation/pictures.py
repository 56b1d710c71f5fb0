"""Pictures that show at a glance what was predicted: image, truth and prediction side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fm3d_core.evaluation.dice import mean_dice
from fm3d_core.files import atomic_file

_COLUMN_INCHES, _DOTS_PER_INCH, _OPACITY = 3.2, 100, 0.55
_LETTER_INCHES, _PATCH_INCHES = 0.085, 0.8  # of the legend: a letter, about, and the patch with its margins


@dataclass(frozen=True)
class ComparisonRow:
    """One case of a comparison picture.

    Attributes:
        name: shown beside the row.
        image: (X, Y, Z) in RAS, any intensity scale.
        truth: (X, Y, Z) voxel values i + 1 for the i-th label; None when unknown (its panel says so).
        prediction: as ``truth``.
        spacing: voxel size in mm, for the true proportions.
        dice: name -> Dice; their mean is written under the row's name, nothing if empty.
    """

    name: str
    image: npt.NDArray[Any]
    truth: npt.NDArray[np.uint8] | None
    prediction: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]
    dice: Mapping[str, float] = field(default_factory=dict)


def draw_comparison(path_png: str | Path, rows: Sequence[ComparisonRow], labels: Sequence[str]) -> Path:
    """Draw image | truth | prediction, one row per case, in the axial slice with the largest truth area.

    Shown as radiologists look at it: the patient's front is up, the patient's right is on the left.

    Args:
        path_png: written as a PNG, atomically.
        rows: at least one case.
        labels: names for the legend; label i has voxel value i + 1.

    Returns:
        ``path_png``.

    Raises:
        StorageError: disk full, no permission.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    path = Path(path_png)
    colors = colours_of(len(labels))
    heights = [_aspect(row) * _COLUMN_INCHES for row in rows]
    # Figure without pyplot: no global state, no display needed.
    figure = Figure(figsize=(3 * _COLUMN_INCHES + 0.6, sum(heights) + 0.35 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, row_axes in zip(rows, axes, strict=True):
        _draw_row(row, row_axes, colors)
    for title, axis in zip(("image", "truth", "prediction"), axes[0], strict=True):
        axis.set_title(title)
    patches = [Patch(color=color, label=name) for color, name in zip(colors, labels, strict=True)]
    columns = max(int(3 * _COLUMN_INCHES / (_LETTER_INCHES * max(map(len, labels)) + _PATCH_INCHES)), 1)
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(labels), columns), frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)
    return path


def _draw_row(row: ComparisonRow, axes: Any, colors: list[tuple[float, ...]]) -> None:
    level = _best_level(row)
    low, high = (float(value) for value in np.percentile(row.image, (0.5, 99.5)))
    gray = _radiological(row.image, level)
    for axis, labels in zip(axes, (None, row.truth, row.prediction), strict=True):
        axis.imshow(gray, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=row.spacing[1] / row.spacing[0])
        if labels is not None:
            axis.imshow(
                _overlay(_radiological(labels, level), colors),
                aspect=row.spacing[1] / row.spacing[0],
                interpolation="nearest",
            )
        axis.set_xticks([])
        axis.set_yticks([])
    if row.truth is None:
        axes[1].text(0.5, 0.5, "no truth", color="white", ha="center", va="center", transform=axes[1].transAxes)
    axes[0].set_ylabel(_caption(row))


def _best_level(row: ComparisonRow) -> int:
    """The axial slice where the truth (else the prediction) covers most; the middle when there is neither."""
    for labels in (row.truth, row.prediction):
        if labels is not None and labels.any():
            return int(np.count_nonzero(labels, axis=(0, 1)).argmax())
    return row.image.shape[2] // 2


def _radiological(array: npt.NDArray[Any], level: int) -> npt.NDArray[Any]:
    """The axial slice as rows and columns of a picture; both axes turn because x grows to the right, y to the front."""
    return array[::-1, ::-1, level].T


def _overlay(labels: npt.NDArray[Any], colors: list[tuple[float, ...]]) -> npt.NDArray[np.float64]:
    table = np.zeros((256, 4))
    for value, color in enumerate(colors, start=1):
        table[value] = (*color[:3], _OPACITY)
    table[len(colors) + 1 :] = (1, 1, 1, _OPACITY)  # a value without a name is white, not hidden
    painted: npt.NDArray[np.float64] = table[labels]
    return painted


def colours_of(count: int) -> list[tuple[float, ...]]:
    """A colour for each of ``count`` structures, as different as can be."""
    from matplotlib import colormaps

    few, many = colormaps["Set1"], colormaps["tab20"]
    return [few(index) if count <= few.N else many(index % many.N) for index in range(count)]


def _caption(row: ComparisonRow) -> str:
    score = mean_dice(row.dice)
    return row.name if math.isnan(score) else f"{row.name}\nDice {score:.2f}"


def _aspect(row: ComparisonRow) -> float:
    """Height of the axial slice over its width, in mm."""
    return row.image.shape[1] * row.spacing[1] / (row.image.shape[0] * row.spacing[0])
