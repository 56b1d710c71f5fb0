"""Between the MRML scene and files: volumes out and in, segments to label values by name and back. No Qt.

Geometry is never touched: a file is written on the grid of its volume and read on its own. MRML and its storage
nodes convert between the RAS of the scene and the LPS of the files. Everything here runs on the GUI thread.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from .errors import SceneError
from .labelmaps import readLabelArray, writeLabelArray
from .segments import addMissingSegments, segmentsByName, segmentVoxels, setSegment
from .translation import tr as _

ID_ATTRIBUTE, SERVER_ATTRIBUTE = "FM3D.ImageId", "FM3D.Server"


def parseNames(text: str) -> list[str]:
    """Structure names from ``liver, left kidney``.

    :raises SceneError: if there is none, or one twice.
    """
    names = [" ".join(name.split()) for name in text.split(",")]
    names = [name for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SceneError(_("The structure '{name}' is listed twice.").format(name=twice[0]))
    if not names:
        raise SceneError(_("Name at least one structure, for example: liver, left kidney"))
    return names


# -- which volume of the scene is which on the server


def imageId(volume: Any, server: str) -> str:
    """The id under which ``server`` knows the volume, "" if it does not."""
    known = volume is not None and volume.GetAttribute(SERVER_ATTRIBUTE) == server
    return (volume.GetAttribute(ID_ATTRIBUTE) or "") if known else ""


def rememberImageId(volume: Any, server: str, identifier: str) -> None:
    """Note, in the scene, under which id ``server`` knows the volume."""
    volume.SetAttribute(SERVER_ATTRIBUTE, server)
    volume.SetAttribute(ID_ATTRIBUTE, identifier)


def volumeWithId(identifier: str, server: str) -> Any:
    """The volume of the scene that ``server`` knows under this id, None if there is none."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((volume for volume in volumes if imageId(volume, server) == identifier), None)


def newImageId(name: str, taken: Collection[str]) -> str:
    """An id a server accepts, made from a node's name, different from all in ``taken``."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:100] or "volume"
    identifier, number = stem, 2
    while identifier in taken:
        identifier, number = f"{stem}-{number}", number + 1
    return identifier


def present(node: Any) -> Any:
    """The node, if it is still in the scene.

    :raises SceneError: if the user has removed it while the server was at work.
    """
    if not slicer.mrmlScene.IsNodePresent(node):
        raise SceneError(_("'{name}' is no longer in the scene.").format(name=node.GetName()))
    return node


# -- volumes


def writeVolume(volume: Any, path: Path) -> Path:
    """Write a volume as .nrrd; uncompressed, because compressing on the GUI thread would freeze the window.

    :raises SceneError: if it has no voxels or several values per voxel, or the disk is full.
    """
    image = volume.GetImageData()
    if not image or 0 in image.GetDimensions():
        raise SceneError(_("'{name}' has no voxels.").format(name=volume.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        raise SceneError(_("'{name}' has several values per voxel (colours?).").format(name=volume.GetName()))
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(False)
    if not storage.WriteData(volume):
        raise SceneError(_("Cannot write {path}. Is the disk full?").format(path=path))
    return path


def readVolume(path: Path, name: str) -> Any:
    """Load a volume into the scene and show it.

    :raises SceneError: if it cannot be read.
    """
    try:
        volume = slicer.util.loadVolume(str(path), {"name": name, "singleFile": True, "show": True})
    except RuntimeError as error:
        raise SceneError(_("Cannot read the volume {name} that the server sent.").format(name=name)) from error
    # The file is temporary: without its storage node, Slicer offers to save the volume somewhere else.
    storage = volume.GetStorageNode()
    volume.SetAndObserveStorageNodeID(None)
    slicer.mrmlScene.RemoveNode(storage)
    return volume


# -- segmentations


def createSegmentation(volume: Any, names: Sequence[str], nodeName: str) -> Any:
    """A segmentation on the grid of ``volume`` with an empty segment for each name, ready to be painted."""
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", nodeName)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    addMissingSegments(segmentation, names)
    return segmentation


def volumeOf(segmentation: Any) -> Any:
    """The volume a segmentation was made for, None if it does not tell."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return segmentation.GetNodeReference(role) if segmentation else None


def segmentationOf(volume: Any) -> Any:
    """The newest segmentation made for a volume, None if there is none."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if volume else []
    return next((node for node in reversed(nodes) if volumeOf(node) is volume), None)


def hideOthers(segmentation: Any, volume: Any) -> None:
    """Show only this one of a volume's segmentations."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if volumeOf(node) is volume:
            node.SetDisplayVisibility(node is segmentation)


def readSegmentation(path: Path, volume: Any, values: Mapping[str, int], nodeName: str) -> Any:
    """Load a label map as segments named by ``values`` (name -> voxel value); absent structures become empty segments.

    :raises SceneError: if it cannot be read, does not lie on the volume's grid, or has values without a name.
    """
    import numpy as np

    array = readLabelArray(path, volume)
    known = {name: np.count_nonzero(array == value) for name, value in values.items()}
    if sum(known.values()) != np.count_nonzero(array):
        unknown = min(set(np.unique(array).tolist()) - {0, *values.values()})
        message = _("The segmentation contains the value {value}, which has no name.")
        raise SceneError(message.format(value=unknown))
    segmentation = createSegmentation(volume, list(values), nodeName)
    for name, value in values.items():
        if known[name]:
            setSegment(segmentation, volume, name, array == value)
    return segmentation


@dataclass(frozen=True)
class WrittenLabel:
    """What went into a label file.

    Attributes:
        path: the file.
        labelInfo: name and voxel value of each structure, as the server wants it.
        empty: structures without a voxel.
        ignored: segments whose name is no structure's.
        overlap: voxels that lie in two structures; the later one in the list has them.
    """

    path: Path
    labelInfo: list[dict[str, Any]]
    empty: list[str]
    ignored: list[str]
    overlap: int


def writeLabel(segmentation: Any, volume: Any, names: Sequence[str], path: Path) -> WrittenLabel:
    """Write segments as a label map on the grid of ``volume``: value 1 for the segment called ``names[0]``, and so on.

    The order of the segments in the scene does not matter, nor do segments with other names.

    :raises SceneError: if no structure has a voxel, one name is two segments', or they belong to another volume.
    """
    import numpy as np

    owner = volumeOf(segmentation)
    if owner and owner is not volume:
        message = _("'{segmentation}' was made for '{owner}'. Choose that volume, or another segmentation.")
        raise SceneError(message.format(segmentation=segmentation.GetName(), owner=owner.GetName()))
    array = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    empty, overlap = [], 0
    for value, name in enumerate(names, start=1):
        mask = segmentVoxels(segmentation, volume, name)
        if not mask.any():
            empty.append(name)
        overlap += int(np.count_nonzero(array[mask]))
        array[mask] = value
    if len(empty) == len(names):
        message = _("None of the structures {names} is drawn in '{segmentation}'. Nothing was sent.")
        raise SceneError(message.format(names=", ".join(names), segmentation=segmentation.GetName()))
    writeLabelArray(array, volume, path)
    info = [{"name": name, "idx": value} for value, name in enumerate(names, start=1)]
    ignored = [name for name in segmentsByName(segmentation) if name not in names]
    return WrittenLabel(path, info, empty, ignored, overlap)
