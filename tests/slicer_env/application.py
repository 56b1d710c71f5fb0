"""What Slicer's application object and its start-up provide: the scene, the module logics, ``slicer.app``."""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from . import pythonqt
from .io_manager import IOManager

LOGICS = {
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "markups": "vtkSlicerMarkupsLogic",
}


class ModuleManager(QtCore.QObject):
    """Finds modules, and announces that one goes; nothing is ever unloaded here."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)
    connect, disconnect = pythonqt.connect, pythonqt.disconnect

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)


class Module:
    """A scripted module as ``slicer.modules`` holds it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = str(path), path.stem

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        return qSlicerScriptedLoadableModuleWidget(self.name)


class qSlicerScriptedLoadableModuleWidget:
    """Slicer's C++ side of a module's widget: it makes the parent and calls the Python side."""

    def __init__(self, name: str) -> None:
        parent = slicer.qMRMLWidget()
        parent.setLayout(QtWidgets.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        self._widget = getattr(importlib.import_module(name), f"{name}Widget")(parent)
        self._widget.setup()

    def self(self) -> Any:
        return self._widget


class Application(QtCore.QObject):
    """The part of qSlicerApplication that scripted modules and ``slicer.util`` ask for."""

    startupCompleted = QtCore.Signal()
    connect, disconnect = pythonqt.connect, pythonqt.disconnect
    applicationName = "Slicer"

    def __init__(self, scene: Any, logic: Any, logics: list[Any]) -> None:
        super().__init__()
        self._scene, self._logic, self._modules = scene, logic, ModuleManager()
        self._logics = logics  # MRML's pointers to them do not keep them alive: without this list, a segfault
        self._io = IOManager(scene)
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer_env_")

    def testingEnabled(self) -> bool:
        return True

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def translate(self, context: str, text: str) -> str:
        return text

    def applicationLogic(self) -> Any:
        return self._logic

    def mrmlScene(self) -> Any:
        return self._scene

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def coreIOManager(self) -> IOManager:
        return self._io

    def topLevelWidgets(self) -> list[QtWidgets.QWidget]:
        return QtWidgets.QApplication.topLevelWidgets()

    def layoutManager(self) -> None:
        return None

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    userSettings = settings

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def setOverrideCursor(self, cursor: Any) -> None:
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        QtWidgets.QApplication.restoreOverrideCursor()


def install(modulePath: Path) -> None:
    """Give ``slicer`` its scene, its modules (our own is at ``modulePath``) and its application."""
    scene = slicer.vtkMRMLScene()
    applicationLogic = slicer.vtkSlicerApplicationLogic()
    applicationLogic.SetMRMLScene(scene)
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.SetMRMLApplicationLogic(applicationLogic)
    colors.AddDefaultColorNodes()
    applicationLogic.SetModuleLogic("Colors", colors)
    logics = [colors]
    modules = types.ModuleType("slicer.modules")
    for name, className in LOGICS.items():
        logic = getattr(slicer, className)()
        logic.SetMRMLApplicationLogic(applicationLogic)
        logic.SetMRMLScene(scene)
        applicationLogic.SetModuleLogic(name.capitalize(), logic)
        setattr(modules, name, types.SimpleNamespace(logic=lambda logic=logic: logic))
        logics.append(logic)
    setattr(modules, modulePath.stem.lower(), Module(modulePath))
    slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
    sys.modules["slicer.modules"] = modules
    slicer.modules, slicer.mrmlScene = modules, scene
    slicer.app = Application(scene, applicationLogic, logics)
