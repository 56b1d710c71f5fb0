"""What the network computes besides a segmentation, laid over the volume in the slice views. No Qt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from .errors import SceneError
from .labelmaps import LARGEST_DIFFERENCE, gridDifference
from .translation import tr as _

INSIGHT = "insight"  # the model's name on the server
PCA, ATTENTION, UNCERTAINTY = "pca", "attention", "uncertainty"
KINDS = (PCA, ATTENTION, UNCERTAINTY)
OPACITY = 0.5
COLOUR_TABLES = ("vtkMRMLColorTableNodeFileInferno.txt", "vtkMRMLColorTableNodeWarm1")
KIND_ATTRIBUTE = "FM3D.Overlay"


def show(path: Path, volume: Any, name: str, kind: str, opacity: float) -> Any:
    """Load what the server has computed and lay it over ``volume``; one overlay of a volume is there at a time.

    :raises SceneError: if it cannot be read or lies elsewhere.
    """
    colours = kind == PCA
    className = "vtkMRMLVectorVolumeNode" if colours else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(className, f"{volume.GetName()} {name}")
    try:
        _read(node, path, volume)
    except SceneError:
        slicer.mrmlScene.RemoveNode(node)
        raise
    hide()
    node.SetAttribute(KIND_ATTRIBUTE, kind)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    if not colours:
        _colour(node)
    slicer.util.setSliceViewerLayers(background=volume, foreground=node, foregroundOpacity=opacity)
    return node


def hide(kind: str = "") -> None:
    """Take the overlay out of the views and out of the scene; with ``kind``, only one of that kind."""
    for node in list(shown()):
        if kind in ("", node.GetAttribute(KIND_ATTRIBUTE)):
            slicer.mrmlScene.RemoveNode(node)


def shown() -> list[Any]:
    """The overlays of the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(KIND_ATTRIBUTE)]


def setOpacity(opacity: float) -> None:
    """How strongly the overlay covers the volume."""
    if shown():
        slicer.util.setSliceViewerLayers(foregroundOpacity=opacity)


def _read(node: Any, path: Path, volume: Any) -> None:
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(True)
    if not storage.ReadData(node):
        raise SceneError(_("Cannot read the overlay that the server sent."))
    if gridDifference(node, volume) > LARGEST_DIFFERENCE:
        raise SceneError(_("The overlay does not lie on the grid of '{name}'.").format(name=volume.GetName()))


def _colour(node: Any) -> None:
    """From dark to bright over the values that occur; what is 0 or less is left out, to see the volume there."""
    import numpy as np

    array = slicer.util.arrayFromVolume(node)
    low, high = float(array.min()), float(np.percentile(array, 99.9))
    display = node.GetDisplayNode()
    tables = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in COLOUR_TABLES]
    table = next((table for table in tables if table), None)
    if table:
        display.SetAndObserveColorNodeID(table.GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, max(high, low + 1e-6))
    if low <= 0 < high:
        display.SetThreshold(0.02 * high, max(float(array.max()), high))
        display.SetApplyThreshold(True)
