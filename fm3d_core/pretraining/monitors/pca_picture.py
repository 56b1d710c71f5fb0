"""Patch features as colours beside the image: what a backbone sees as alike has one colour.

Oquab et al. 2023 (DINOv2, figure 1): the first three principal components of the foreground's patches are red, green
and blue. They take as foreground what a component of the features says; here it is what is not empty in the image: it
is the same in all steps, and tissue stays visible beside volumes that are mostly air. Each volume's mean is taken off
first, or the colours would only tell CT from MR. A component's sign means nothing; here it follows place or brightness,
so that colours do not jump between steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fm3d_core.files import atomic_file
from fm3d_core.pretraining.crops import Box
from fm3d_core.pretraining.monitors.fixed_crops import FixedVolume, Triple, features_of
from fm3d_core.volumes.volume_list import UNKNOWN

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Objective

_PANEL_INCHES, _DOTS_PER_INCH = 2.0, 100
_LEAST_FOREGROUND = 8  # patches; with fewer the mask is dropped
_EMPTY = -0.8  # a patch is air if its brightest voxel is below this, a tenth of the way from darkest to brightest
_PLANES = ("axial", "coronal", "sagittal")
Array = npt.NDArray[Any]


class PCAPicture:
    """Draws ``pca_STEP.png``: for each volume three planes of the image, and the same planes of the colours.

    Figure: ``pca_explained``, the share of the foreground's variance that the three colours show.

    Args:
        volumes: of which some are drawn.
        count: how many.
        edge: voxels along the longest side; the backbone sees the whole volume at once, in its own proportions.
    """

    def __init__(self, volumes: Sequence[FixedVolume], count: int = 3, edge: int = 128) -> None:
        step = max(len(volumes) // count, 1)
        self.volumes, self.edge = list(volumes)[::step][:count], edge

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """Draw the picture of this step.

        Raises:
            VolumeError: a volume that cannot be read.
            StorageError: disk full, no permission.
        """
        backbone: Any = objective.pretrained()
        images, cells, grids, empty = [], [], [], []
        for volume in self.volumes:
            size, spacing = proportional_size(volume, self.edge, backbone.size_multiple)
            image = volume.read(Box((0, 0, 0), volume.shape), size)
            found = features_of(backbone, image[None], torch.tensor([spacing]), 1)
            images.append(image[0])
            cells.append(found.patches[0])
            grids.append(found.grid)
            empty.append(F.adaptive_max_pool3d(image, found.grid).flatten() < _EMPTY)
        known = [hints(image, grid) for image, grid in zip(images, grids, strict=True)]
        colors, explained = colored(cells, known, empty)
        rows = [
            (
                f"{volume.name}\n{volume.modality}",
                in_ras(image.numpy(), volume.axes),
                in_ras(color.reshape(*grid, 3).numpy(), volume.axes),
            )
            for volume, image, color, grid in zip(self.volumes, images, colors, grids, strict=True)
        ]
        draw(folder / f"pca_{step:07d}.png", rows, f"step {step}")
        return {"pca_explained": explained}


def _label(volume: FixedVolume) -> str:
    return volume.name if volume.modality == UNKNOWN else f"{volume.name}\n{volume.modality}"


def proportional_size(volume: FixedVolume, edge: int, multiple: Triple) -> tuple[Triple, tuple[float, float, float]]:
    """Voxels along each axis that a backbone takes, in the volume's proportions, and their size in mm."""
    lengths = [voxels * step for voxels, step in zip(volume.shape, volume.spacing, strict=True)]
    x, y, z = (
        max(round(edge * length / max(lengths) / step), 1) * step
        for length, step in zip(lengths, multiple, strict=True)
    )
    return (x, y, z), (lengths[0] / x, lengths[1] / y, lengths[2] / z)


def hints(image: torch.Tensor, grid: Triple) -> torch.Tensor:
    """Brightness and place of each cell (N, 4), which the components' signs follow."""
    brightness = F.adaptive_avg_pool3d(image[None, None], grid).flatten()
    places = torch.meshgrid(*(torch.linspace(-1, 1, cells) for cells in grid), indexing="ij")
    return torch.stack([brightness, *(place.flatten() for place in places)], dim=1)


def colored(
    cells: Sequence[torch.Tensor], known: Sequence[torch.Tensor], empty: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], float]:
    """Colours (N, 3) from 0 to 1 of each volume's cells (N, C), and the share of their variance that these show.

    Args:
        cells: features.
        known: hints (N, h) for the components' signs.
        empty: (N,) bool: cells that stay black, unless hardly any others are there.
    """
    kept = [~air if (~air).sum() >= _LEAST_FOREGROUND else torch.ones_like(air) for air in empty]
    rows = torch.cat([(cell[keep] - cell[keep].mean(dim=0)).double() for cell, keep in zip(cells, kept, strict=True)])
    hint = torch.cat([row[keep].double() for row, keep in zip(known, kept, strict=True)])
    scores, explained = components(rows, hint, 3)
    low, high = torch.quantile(scores, 0.02, dim=0), torch.quantile(scores, 0.98, dim=0)
    shown = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
    colors = []
    for keep, part in zip(kept, shown.split([int(keep.sum()) for keep in kept]), strict=True):
        color = torch.zeros(len(keep), 3)
        color[keep] = part
        colors.append(color)
    return colors, explained


def components(rows: torch.Tensor, hint: torch.Tensor, count: int) -> tuple[torch.Tensor, float]:
    """Scores (n, count) on the first principal components, and the share of variance they explain.

    Each component's sign makes its scores rise with the column of ``hint`` (n, h) that they follow or oppose most.
    """
    centred = rows - rows.mean(dim=0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = F.pad((left * values)[:, :count], (0, max(count - len(values), 0)))
    centred_hint = hint - hint.mean(dim=0)
    follows = F.normalize(centred_hint, dim=0).T @ F.normalize(scores, dim=0)  # (h, count) correlations
    strongest = follows.gather(0, follows.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(strongest < 0, -1.0, 1.0)
    energy = values.square()
    return scores * signs, float(energy[:count].sum() / energy.sum().clamp(min=1e-300))


def in_ras(values: Array, axes: Triple) -> Array:
    """A stored array, further axes last, with its first three axes in the order of RAS again."""
    back = [int(axis) for axis in np.argsort(axes)]
    return values.transpose(*back, *range(3, values.ndim))


def plane(values: Array, name: str) -> Array:
    """The middle slice as rows and columns of a picture, as radiologists look at it: patient's right on the left."""
    x, y, z = (size // 2 for size in values.shape[:3])
    cut = {"axial": values[::-1, ::-1, z], "coronal": values[::-1, y, ::-1], "sagittal": values[x, ::-1, ::-1]}[name]
    return cut.swapaxes(0, 1)


def draw(path: Path, rows: Sequence[tuple[str, Array, Array]], title: str) -> None:
    """Draw rows of (name, image (X, Y, Z), colours (x, y, z, 3)); cubes of equal mm, so planes keep their shape."""
    from matplotlib.figure import Figure

    # Figure without pyplot: no global state, no display needed.
    figure = Figure(figsize=(6 * _PANEL_INCHES, (_PANEL_INCHES + 0.2) * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), 6, squeeze=False)
    for (name, image, colors), panels in zip(rows, axes, strict=True):
        for index, plane_name in enumerate(_PLANES):
            gray, color = plane(image, plane_name), plane(colors, plane_name)
            extent = (0, gray.shape[1], gray.shape[0], 0)
            panels[2 * index].imshow(gray, cmap="gray", vmin=-1, vmax=1, extent=extent)
            panels[2 * index + 1].imshow(color, extent=extent, interpolation="nearest")
        panels[0].set_ylabel(name)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    for index, plane_name in enumerate(_PLANES):
        axes[0][2 * index].set_title(plane_name)
        axes[0][2 * index + 1].set_title("features")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH)
