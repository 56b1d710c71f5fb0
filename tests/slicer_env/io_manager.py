"""Stand-in for ``slicer.app.coreIOManager()``: the real MRML storage nodes without the Qt readers around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MESSAGE_ERROR = 0x10000


class IOManager:
    """Reads and writes volumes for ``slicer.util.loadVolume`` and ``saveNode``."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene

    def loadNodes(self, fileType: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        path = Path(properties["fileName"])
        if fileType != "VolumeFile" or not path.exists():
            messages.AddMessage(MESSAGE_ERROR, f"cannot read {path} as {fileType}")
            return False
        kind = "vtkMRMLLabelMapVolumeNode" if properties.get("labelmap") else "vtkMRMLScalarVolumeNode"
        name = properties.get("name") or path.name.split(".")[0]
        storage = self._scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(str(path))
        storage.SetSingleFile(bool(properties.get("singleFile")))
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(name))
        if not storage.ReadData(node):
            self._scene.RemoveNode(node)
            self._scene.RemoveNode(storage)
            messages.AddMessage(MESSAGE_ERROR, f"cannot read {path}")
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        loaded.AddItem(node)
        return True

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        node = self._scene.GetNodeByID(properties["nodeID"])
        storage = self._scene.AddNode(node.CreateDefaultStorageNode())
        storage.SetFileName(properties["fileName"])
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        node.SetAndObserveStorageNodeID(storage.GetID())
        return bool(storage.WriteData(node))

    def fileWriterFileType(self, node: Any) -> str:
        return ""
