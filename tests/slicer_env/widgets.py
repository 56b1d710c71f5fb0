"""Small stand-ins for the CTK and qMRML widgets that our .ui names; their plain Qt parts are real."""

from __future__ import annotations

import types
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

TITLE_HEIGHT = 24
UNBOUNDED = (1 << 24) - 1  # QWIDGETSIZE_MAX


class _Collapsible:
    """What both of CTK's collapsible widgets do: contents that code shows or hides meanwhile stay collapsed."""

    _collapsed = False
    _forcing = False

    def _getCollapsed(self) -> bool:
        return self._collapsed

    def _setCollapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            self._force(child)
        self.update()

    def _force(self, child: QtWidgets.QWidget) -> None:
        self._forcing = True
        child.setVisible(not self._collapsed and child.property("visibleToParent") is not False)
        self._forcing = False

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        super().childEvent(event)
        if event.added() and event.child().isWidgetType():
            event.child().installEventFilter(self)
            if self._collapsed:
                self._force(event.child())

    def eventFilter(self, child: QtCore.QObject, event: QtCore.QEvent) -> bool:
        shown, hidden = QtCore.QEvent.ShowToParent, QtCore.QEvent.HideToParent
        if not self._forcing and event.type() in (shown, hidden):
            child.setProperty("visibleToParent", event.type() == shown)
            if self._collapsed:
                self._force(child)
        return False

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < TITLE_HEIGHT:
            self.collapsed = not self._collapsed

    def _arrow(self) -> str:
        return "▸" if self._collapsed else "▾"


class ctkCollapsibleButton(_Collapsible, QtWidgets.QWidget):
    """A titled section that hides its contents at a click on the title."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = ""
        self.setContentsMargins(0, TITLE_HEIGHT, 0, 0)

    def _getText(self) -> str:
        return self._text

    def _setText(self, text: str) -> None:
        self._text = text
        self.update()

    def _collapse(self, collapsed: bool) -> None:
        self._setCollapsed(collapsed)
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, _getText, _setText)
    collapsed = Property(bool, _Collapsible._getCollapsed, _collapse)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        title = QtCore.QRect(0, 0, self.width, TITLE_HEIGHT - 2)
        painter.fillRect(title, self.palette.button().color().darker(112))
        font = painter.font()
        font.setBold(True)
        painter.setFont(font)
        painter.drawText(title.adjusted(6, 0, 0, 0), QtCore.Qt.AlignVCenter, f"{self._arrow()} {self._text}")
        painter.end()


class ctkCollapsibleGroupBox(_Collapsible, QtWidgets.QGroupBox):
    """A framed part of a section that hides its contents at a click on its title."""

    def _collapse(self, collapsed: bool) -> None:
        self._setCollapsed(collapsed)
        self.setMaximumHeight(TITLE_HEIGHT if collapsed else UNBOUNDED)

    collapsed = Property(bool, _Collapsible._getCollapsed, _collapse)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = QtWidgets.QStyleOptionGroupBox()
        self.initStyleOption(option)
        option.text = f"{self._arrow()} {option.text}"
        if self._collapsed:  # only its title is left
            option.subControls &= ~QtWidgets.QStyle.SC_GroupBoxFrame
        painter = QtWidgets.QStylePainter(self)
        painter.drawComplexControl(QtWidgets.QStyle.CC_GroupBox, option)
        painter.end()


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path, typed or chosen."""

    currentPathChanged = Signal(str)
    Dirs = 1
    filters = Dirs

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._edit = QtWidgets.QLineEdit(self)
        self._edit.textChanged.connect(self.currentPathChanged)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(QtWidgets.QPushButton("...", self))

    def _getPath(self) -> str:
        return self._edit.property("text")

    def _setPath(self, path: str) -> None:
        self._edit.setText(path)

    currentPath = Property(str, _getPath, _setPath)


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that hands its scene on to its children."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for child in self.findChildren(QtWidgets.QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Lists the scene's nodes of the given classes; it really observes the scene."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._types: list[str] = []
        self._children = True
        self._ids: list[str | None] = [None]
        self._tags: list[int] = []
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def _getTypes(self) -> list[str]:
        return self._types

    def _setTypes(self, types: list[str]) -> None:
        self._types = list(types)
        self._refresh()

    def _getChildren(self) -> bool:
        return self._children

    def _setChildren(self, shown: bool) -> None:
        self._children = shown
        self._refresh()

    def _ignore(self, value: bool) -> None:
        """Adding, renaming and removing nodes is qMRML's business."""

    def _getFalse(self) -> bool:
        return False

    nodeTypes = Property("QStringList", _getTypes, _setTypes)
    showChildNodeTypes = Property(bool, _getChildren, _setChildren)
    addEnabled = Property(bool, _getFalse, _ignore)
    removeEnabled = Property(bool, _getFalse, _ignore)
    renameEnabled = Property(bool, _getFalse, _ignore)
    noneEnabled = Property(bool, _getFalse, _ignore)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
            self._tags = [scene.AddObserver(event, self._refresh) for event in events]
        self._refresh()

    def mrmlScene(self) -> Any:
        return self._scene

    def _refresh(self, caller: Any = None, event: str = "") -> None:
        before = self.currentNode()
        nodes = [n for t in self._types for n in slicer.util.getNodesByClass(t, self._scene)] if self._scene else []
        nodes = [n for n in nodes if not n.GetHideFromEditors()]
        if not self._children:
            nodes = [n for n in nodes if n.GetClassName() in self._types]
        self.blockSignals(True)
        self.clear()
        self._ids = [None, *(node.GetID() for node in nodes)]
        self.addItems(["None", *(node.GetName() for node in nodes)])
        kept = before.GetID() if before and before.GetID() in self._ids else None
        self.setCurrentIndex(self._ids.index(kept))
        self.blockSignals(False)
        if before and not kept:
            self.currentNodeChanged.emit(None)

    def currentNode(self) -> Any:
        index = self.property("currentIndex")
        return self._scene.GetNodeByID(self._ids[index]) if self._scene and 0 < index < len(self._ids) else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentIndex(self._ids.index(node.GetID()) if node else 0)


STAND_INS = [ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkPathLineEdit, qMRMLWidget, qMRMLNodeComboBox]


def install(ctk: types.ModuleType) -> list[type]:
    """Put the stand-ins where Slicer has the real ones; a list of them for the .ui loader is returned."""
    for cls in STAND_INS:
        setattr(ctk if cls.__name__.startswith("ctk") else slicer, cls.__name__, cls)
    return STAND_INS
