"""Single segments of a segmentation, by the names of their structures. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer

from .errors import SceneError
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

    segment = segmentsByName(segmentation).get(name)
    layer = segment and segmentation.GetBinaryLabelmapInternalRepresentation(segment)
    if not layer or 0 in layer.GetDimensions():  # never painted; Slicer's export would complain
        return np.zeros(slicer.util.arrayFromVolume(volume).shape, bool)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume) > 0


def setSegment(segmentation: Any, volume: Any, name: str, mask: Any) -> None:
    """Draw a structure anew: ``mask`` is a bool array on the grid of ``volume``. Its segment is made if need be."""
    import numpy as np

    addMissingSegments(segmentation, [name])
    segment = segmentsByName(segmentation)[name]
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, segment, volume)


def addScribbleSegments(segmentation: Any, structure: str) -> str:
    """Segments to paint scribbles in; the id of the one for inside is given."""
    addMissingSegments(segmentation, [structure + INSIDE, structure + OUTSIDE])
    return segmentsByName(segmentation)[structure + INSIDE]


def scribbles(segmentation: Any, volume: Any, structure: str) -> Any:
    """What was scribbled for a structure: 1 inside, 2 outside, 0 nothing, on the grid of ``volume``."""
    import numpy as np

    outside = segmentVoxels(segmentation, volume, structure + OUTSIDE)
    array = np.where(outside, 2, 0).astype(np.uint8)
    array[segmentVoxels(segmentation, volume, structure + INSIDE)] = 1
    return array
