"""Two segmentations of one volume next to each other: one in the left view, one in the right, moved together. No Qt."""

from __future__ import annotations

from typing import Any

import slicer

LEFT, RIGHT = "vtkMRMLSliceNodeRed", "vtkMRMLSliceNodeYellow"
ATTRIBUTE, LAYOUT = "FM3D.SideBySide", "FM3D.LayoutBefore"


def show(volume: Any, one: Any, other: Any) -> None:
    """Show ``one`` in the left view and ``other`` in the right."""
    end()
    for segmentation in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segmentation.SetDisplayVisibility(segmentation in (one, other))
    for segmentation, view in ((one, LEFT), (other, RIGHT)):
        segmentation.SetAttribute(ATTRIBUTE, view)
        segmentation.GetDisplayNode().AddViewNodeID(view)
    layouts = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layouts:
        one.SetAttribute(LAYOUT, str(layouts.GetViewArrangement()))
        layouts.SetViewArrangement(layouts.SlicerLayoutSideBySideView)
    for view in (LEFT, RIGHT):
        slice_ = slicer.mrmlScene.GetNodeByID(view)
        if slice_:
            slice_.SetOrientationToAxial()
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetLinkedControl(True)
    slicer.util.setSliceViewerLayers(background=volume)


def isShown() -> bool:
    """Whether two segmentations are next to each other now."""
    return bool(_shown())


def end() -> None:
    """Back to the views of before; of the two, the left one stays visible in all of them."""
    layouts = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    for segmentation in _shown():
        segmentation.GetDisplayNode().RemoveAllViewNodeIDs()
        segmentation.SetDisplayVisibility(segmentation.GetAttribute(ATTRIBUTE) == LEFT)
        before = segmentation.GetAttribute(LAYOUT)
        if layouts and before:
            layouts.SetViewArrangement(int(before))
        segmentation.RemoveAttribute(ATTRIBUTE)
        segmentation.RemoveAttribute(LAYOUT)


def _shown() -> list[Any]:
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if node.GetAttribute(ATTRIBUTE)]
