"""Whether a label map belongs to its image."""

from __future__ import annotations

from fm3d_core.errors import LabelError
from fm3d_core.volumes.volume import Volume, largest_distance

# Two grids are the same when no voxel lies further apart than this, in mm.
GRID_TOLERANCE = 1e-3


def check_label(label: Volume, image: Volume, *, allow_empty: bool = False) -> None:
    """Refuse a label map that does not lie on its image's grid, or in which nothing is labelled.

    Both may be stored in different axis orders: they are compared in RAS.

    Raises:
        LabelError: other shape, another place by more than 1e-3 mm, or empty.
    """
    path = label.source.path
    remedy = f"Resample the label to the grid of {image.source.path.name} (nearest neighbour)"
    if label.array.shape != image.array.shape:
        raise LabelError(
            f"has {_times(label)} voxels but its image {image.source.path.name} has {_times(image)}",
            path=path,
            remedy=remedy,
        )
    distance = largest_distance(label.affine, image.affine, image.array.shape)
    if not distance <= GRID_TOLERANCE:
        raise LabelError(
            f"lies up to {distance:.3g} mm away from its image {image.source.path.name}", path=path, remedy=remedy
        )
    if not allow_empty and not label.array.any():
        raise LabelError("is empty: every voxel is background", path=path, remedy="Label at least one structure in it")


def _times(volume: Volume) -> str:
    return " x ".join(str(size) for size in volume.array.shape)
