"""Label maps: arrays on the grid of a volume, to and from files. No Qt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
import vtk

from .errors import SceneError
from .translation import tr as _

LARGEST_DIFFERENCE = 1e-3  # mm between the grids of a volume and of its label map


def readLabelArray(path: Path, volume: Any) -> Any:
    """The values of a label map file that lies on the grid of ``volume``, in the order of ``arrayFromVolume``.

    :raises SceneError: if it cannot be read, or lies elsewhere.
    """
    with _labelmap() as labelmap:
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(path))
        storage.SetSingleFile(True)
        if not storage.ReadData(labelmap):
            raise SceneError(_("Cannot read the segmentation that the server sent."))
        difference = gridDifference(labelmap, volume)
        if difference > LARGEST_DIFFERENCE:
            message = _("The segmentation does not lie on the grid of '{name}' (off by {difference:.3g} mm).")
            raise SceneError(message.format(name=volume.GetName(), difference=difference))
        return slicer.util.arrayFromVolume(labelmap).copy()


def writeLabelArray(array: Any, volume: Any, path: Path) -> Path:
    """Write an array of label values on the grid of ``volume``.

    :raises SceneError: if the disk is full.
    """
    import numpy as np

    with _labelmap() as labelmap:
        labelmap.SetIJKToRASMatrix(ijkToRAS(volume))
        slicer.util.updateVolumeFromArray(labelmap, np.asarray(array, np.uint8))
        storage = slicer.vtkMRMLNRRDStorageNode()
        storage.SetFileName(str(path))
        if not storage.WriteData(labelmap):
            raise SceneError(_("Cannot write {path}. Is the disk full?").format(path=path))
    return path


def gridDifference(one: Any, other: Any) -> float:
    """How far apart, in mm, the corners of two volumes' grids are; infinite if their sizes differ."""
    import numpy as np

    sizes = [node.GetImageData().GetDimensions() for node in (one, other)]
    if sizes[0] != sizes[1]:
        return float("inf")
    first, second = (slicer.util.arrayFromVTKMatrix(ijkToRAS(node)) for node in (one, other))
    corners = np.array([[i, j, k, 1] for i in (0, sizes[0][0]) for j in (0, sizes[0][1]) for k in (0, sizes[0][2])])
    return float(np.abs(corners @ (first - second).T).max())


def ijkToRAS(volume: Any) -> Any:
    """From voxel indices to the coordinates of the volume's file."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


@contextmanager
def _labelmap() -> Iterator[Any]:
    """A label map node that is in the scene, out of sight, as long as it is needed."""
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetHideFromEditors(True)
    node = slicer.mrmlScene.AddNode(node)
    try:
        yield node
    finally:
        slicer.mrmlScene.RemoveNode(node)
