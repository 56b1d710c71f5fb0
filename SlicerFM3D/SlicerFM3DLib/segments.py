"""Single segments of a segmentation, by the names of their structures. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
import vtk

from .errors import SceneError
from .labelmaps import ijkToRAS
from .translation import tr as _

# Okabe and Ito's colours, which colour-blind readers tell apart (https://jfly.uni-koeln.de/color/).
COLORS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.00, 0.45, 0.70),
    (0.84, 0.37, 0.00),
    (0.80, 0.47, 0.65),
)
INSIDE, OUTSIDE = " inside", " outside"  # ends of the names of a structure's scribbles


def addMissingSegments(segmentation: Any, names: Sequence[str]) -> None:
    """An empty segment for each name that has none; the n-th name always has the n-th colour."""
    there = segmentsByName(segmentation)
    for number, name in enumerate(names):
        if name not in there:
            segmentation.GetSegmentation().AddEmptySegment("", name, COLORS[number % len(COLORS)])


def segmentsByName(segmentation: Any) -> dict[str, str]:
    """Segment name -> segment id."""
    found: dict[str, str] = {}
    for identifier in segmentation.GetSegmentation().GetSegmentIDs():
        name = segmentation.GetSegmentation().GetSegment(identifier).GetName()
        if name in found:
            raise SceneError(_("Two segments are called '{name}'. Rename or merge them.").format(name=name))
        found[name] = identifier
    return found


def segmentVoxels(segmentation: Any, volume: Any, name: str) -> Any:
    """Where a structure is drawn, as a bool array on the grid of ``volume``; nowhere if it has no segment."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    shape = slicer.util.arrayFromVolume(volume).shape
    segment = segmentsByName(segmentation).get(name)
    layer = segment and segmentation.GetBinaryLabelmapInternalRepresentation(segment)
    if not layer or 0 in layer.GetDimensions():  # never painted; Slicer's export would complain
        return np.zeros(shape, bool)
    inside = _slices(layer.GetExtent(), shape) if _isOnGrid(layer, segmentation, volume) else None
    if inside is None:  # drawn on another grid: Slicer resamples
        return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume) > 0
    value = segmentation.GetSegmentation().GetSegment(segment).GetLabelValue()
    array = np.zeros(shape, bool)  # a layer is as large as what is drawn in it, mostly much less than the volume
    array[inside] = vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(layer.GetDimensions()[::-1]) == value
    return array


def setSegment(segmentation: Any, volume: Any, name: str, mask: Any) -> None:
    """Draw a structure anew: ``mask`` is a bool array on the grid of ``volume``. Its segment is made if need be."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    addMissingSegments(segmentation, [name])
    segment = segmentsByName(segmentation)[name]
    edges = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not edges[0].size or segmentation.GetTransformNodeID() != volume.GetTransformNodeID():
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, segment, volume)
        return
    (k, j, i) = ((int(edge[0]), int(edge[-1])) for edge in edges)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*i, *j, *k)
    image.SetImageToWorldMatrix(ijkToRAS(volume))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    part = mask[k[0] : k[1] + 1, j[0] : j[1] + 1, i[0] : i[1] + 1]
    vtk_to_numpy(image.GetPointData().GetScalars()).reshape(part.shape)[:] = part
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(image, segmentation, segment, logic.MODE_REPLACE, image.GetExtent())


def _isOnGrid(layer: Any, segmentation: Any, volume: Any) -> bool:
    """Whether the voxels of a segment's layer are voxels of the volume."""
    import numpy as np

    if segmentation.GetTransformNodeID() != volume.GetTransformNodeID():
        return False
    matrix = vtk.vtkMatrix4x4()
    layer.GetImageToWorldMatrix(matrix)
    one, other = (slicer.util.arrayFromVTKMatrix(each) for each in (matrix, ijkToRAS(volume)))
    return bool(np.allclose(one, other, rtol=0, atol=1e-6))


def _slices(extent: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...] | None:
    """Where an extent lies in an array (k, j, i), None if parts of it lie outside."""
    edges = [(extent[4], extent[5]), (extent[2], extent[3]), (extent[0], extent[1])]
    if any(low < 0 or high >= size for (low, high), size in zip(edges, shape, strict=True)):
        return None
    return tuple(slice(low, high + 1) for low, high in edges)


def drawnAt(segmentation: Any, name: str) -> int:
    """When a structure was last drawn, as a number that grows with each change; 0 if it has no segment."""
    segment = segmentsByName(segmentation).get(name)
    layer = segment and segmentation.GetBinaryLabelmapInternalRepresentation(segment)
    return layer.GetMTime() if layer else 0


def addScribbleSegments(segmentation: Any, structure: str) -> str:
    """Segments to paint scribbles in; the id of the one for inside is given."""
    addMissingSegments(segmentation, [structure + INSIDE, structure + OUTSIDE])
    return segmentsByName(segmentation)[structure + INSIDE]


def scribbles(segmentation: Any, volume: Any, structure: str) -> Any:
    """What was scribbled for a structure: 1 inside, 2 outside, 0 nothing, on the volume's grid; None if nothing."""
    import numpy as np

    if not {structure + INSIDE, structure + OUTSIDE} & set(segmentsByName(segmentation)):
        return None
    outside = segmentVoxels(segmentation, volume, structure + OUTSIDE)
    array = np.where(outside, 2, 0).astype(np.uint8)
    array[segmentVoxels(segmentation, volume, structure + INSIDE)] = 1
    return array if array.any() else None
