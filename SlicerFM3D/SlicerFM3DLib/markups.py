"""Prompts as markups in the scene: they are placed in the views, dragged, taken back, and read from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from .prompts import Box, Position, Prompts
from .translation import tr as _

INSIDE, OUTSIDE, BOX, REGION = "inside", "outside", "box", "region"
POINTS = (INSIDE, OUTSIDE)
# Okabe and Ito's colours: inside and outside differ for colour-blind readers too.
COLORS = {INSIDE: (0.0, 0.62, 0.45), OUTSIDE: (0.84, 0.37, 0.0), BOX: (0.94, 0.89, 0.26), REGION: (0.34, 0.71, 0.91)}


class PromptMarkups:
    """The markups of one structure's prompts.

    :param onChange: called as ``onChange(settled)`` when one was placed, moved or removed; ``settled`` is False while
        the mouse may still be moving it.
    :param onMode: called when :attr:`placing` may have changed.
    """

    def __init__(self, onChange: Callable[[bool], None], onMode: Callable[[], None]) -> None:
        self._onChange = onChange
        self._nodes: dict[str, Any] = {}
        self._tags: dict[str, list[int]] = {}
        self._order: list[str] = []  # what was placed, oldest first
        self._interaction = slicer.app.applicationLogic().GetInteractionNode()
        modeChanged = self._interaction.InteractionModeChangedEvent  # also by Escape or a click with the right button
        self._interactionTag = self._interaction.AddObserver(modeChanged, lambda *_event: onMode())

    def place(self, kind: str) -> None:
        """Let the next clicks in the views place prompts of this kind."""
        node = self._node(kind)
        logic = slicer.app.applicationLogic()
        selection, interaction = logic.GetSelectionNode(), self._interaction
        selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
        selection.SetActivePlaceNodeID(node.GetID())
        if kind in POINTS:
            interaction.SwitchToPersistentPlaceMode()
        else:
            interaction.SwitchToSinglePlaceMode()

    def stopPlacing(self) -> None:
        """Clicks in the views place nothing any more."""
        self._interaction.SetCurrentInteractionMode(self._interaction.ViewTransform)

    @property
    def placing(self) -> str:
        """The kind that clicks in the views place now, "" if none."""
        if self._interaction.GetCurrentInteractionMode() != self._interaction.Place:
            return ""
        active = slicer.app.applicationLogic().GetSelectionNode().GetActivePlaceNodeID()
        return next((kind for kind, node in self._nodes.items() if node.GetID() == active), "")

    def read(self, volume: Any) -> Prompts:
        """The prompts in the coordinates of the volume's file, whatever transform the volume is under."""
        toVolume = _fromWorld(volume)
        points = [(toVolume(place), kind == INSIDE) for kind in POINTS for place in self._places(kind)]
        return Prompts(tuple(points), self._box(BOX, toVolume), self._box(REGION, toVolume))

    def undo(self) -> bool:
        """Take back what was placed last; whether there was anything."""
        while self._order:
            kind = self._order.pop()
            node = self._nodes.get(kind)
            if node is None:
                continue
            if kind not in POINTS:
                self._remove(kind)
            elif placed := _placed(node):
                node.RemoveNthControlPoint(placed[-1])
            else:  # removed by other means, in the Markups module for example
                continue
            self._onChange(True)
            return True
        return False

    def clear(self) -> None:
        """Remove all prompts."""
        self.stopPlacing()
        for kind in list(self._nodes):
            self._remove(kind)
        self._order.clear()

    def cleanup(self) -> None:
        """Remove all prompts and hear nothing more."""
        self._interaction.RemoveObserver(self._interactionTag)
        self.clear()

    def forget(self) -> None:
        """The scene was closed: its nodes are gone already."""
        self._nodes.clear()
        self._tags.clear()
        self._order.clear()

    def _node(self, kind: str) -> Any:
        if kind in self._nodes:
            return self._nodes[kind]
        names = {INSIDE: _("Inside"), OUTSIDE: _("Outside"), BOX: _("Box"), REGION: _("Region")}
        className = "vtkMRMLMarkupsFiducialNode" if kind in POINTS else "vtkMRMLMarkupsROINode"
        node = slicer.mrmlScene.AddNewNodeByClass(className, names[kind])
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetColor(*COLORS[kind])
        display.SetSelectedColor(*COLORS[kind])
        display.SetTextScale(0)
        if kind not in POINTS:
            display.SetFillOpacity(0)
        placed, moved = node.PointPositionDefinedEvent, node.PointModifiedEvent
        self._nodes[kind] = node
        self._tags[kind] = [
            node.AddObserver(placed, lambda *_event: self._onPlaced(kind)),
            node.AddObserver(moved, lambda *_event: self._onChange(False)),
            node.AddObserver(node.PointEndInteractionEvent, lambda *_event: self._onChange(True)),
            node.AddObserver(node.PointRemovedEvent, lambda *_event: self._onChange(True)),
        ]
        return node

    def _onPlaced(self, kind: str) -> None:
        if kind in POINTS or kind not in self._order:
            self._order.append(kind)
        self._onChange(kind in POINTS)

    def _remove(self, kind: str) -> None:
        node = self._nodes.pop(kind)
        for tag in self._tags.pop(kind):
            node.RemoveObserver(tag)
        slicer.mrmlScene.RemoveNode(node)

    def _places(self, kind: str) -> list[Position]:
        node = self._nodes.get(kind)
        places = []
        for index in _placed(node) if node else ():
            place = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(index, place)
            places.append(tuple(place))
        return places

    def _box(self, kind: str, toVolume: Callable[[Position], Position]) -> Box | None:
        node = self._nodes.get(kind)
        size, bounds = [0.0] * 3, [0.0] * 6
        if node is not None:
            node.GetSizeWorld(size)
        if node is None or not self._places(kind) or min(size) <= 0:
            return None
        node.GetRASBounds(bounds)
        corners = [toVolume((x, y, z)) for x in bounds[:2] for y in bounds[2:4] for z in bounds[4:]]
        low, high = (tuple(edge(corner[axis] for corner in corners) for axis in range(3)) for edge in (min, max))
        return Box(low, high)


def _placed(node: Any) -> list[int]:
    """The control points that have a position: while the user places them, one more follows the mouse."""
    indices = range(node.GetNumberOfControlPoints())
    return [index for index in indices if node.GetNthControlPointPositionStatus(index) == node.PositionDefined]


def _fromWorld(volume: Any) -> Callable[[Position], Position]:
    """From the scene's coordinates to those of a volume that may be under a transform."""
    parent = volume.GetParentTransformNode()
    if parent is None:
        return lambda place: place
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, parent, transform)
    return lambda place: tuple(transform.TransformPoint(*place))
