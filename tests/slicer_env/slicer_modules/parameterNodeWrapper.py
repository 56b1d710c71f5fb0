"""Stand-in for ``slicer.parameterNodeWrapper``: typed access to a parameter node and its connection to widgets.

Fields may be int, float, bool, str and MRML node classes, annotated with :class:`WithinRange`. As in Slicer, a
widget belongs to the field that its dynamic property ``SlicerParameterName`` names, and a field that the widget's
exact class cannot represent is an error.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
import vtk


@dataclass(frozen=True)
class WithinRange:
    """Bounds of a number, both allowed."""

    minimum: float
    maximum: float


@dataclass(frozen=True)
class _Connector:
    """How one class of widget shows a value."""

    signal: str
    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]


def _property(signal: str, name: str) -> _Connector:
    return _Connector(signal, lambda widget: widget.property(name), lambda widget, v: widget.setProperty(name, v))


_CONNECTORS = {
    (int, qt.QSpinBox): _property("valueChanged", "value"),
    (float, qt.QDoubleSpinBox): _property("valueChanged", "value"),
    (bool, qt.QCheckBox): _property("toggled", "checked"),
    (str, qt.QLineEdit): _property("textChanged", "text"),
}
_NODES = _Connector("currentNodeChanged", lambda widget: widget.currentNode(), lambda w, node: w.setCurrentNode(node))


class _Field:
    """One typed field, kept in the MRML node as a parameter or as a node reference."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        annotated = typing.get_origin(annotation) is typing.Annotated
        self.type, *notes = typing.get_args(annotation) if annotated else (annotation,)
        self.name, self.isNode = name, issubclass(self.type, vtk.vtkObject)
        self.default = self.type() if default is None and not self.isNode else default
        self.range = next((note for note in notes if isinstance(note, WithinRange)), None)

    def __get__(self, wrapper: Any, owner: type) -> Any:
        node = wrapper.parameterNode
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.type is bool else self.type(text)

    def __set__(self, wrapper: Any, value: Any) -> None:
        if not isinstance(value, self.type) and not (self.isNode and value is None):
            raise TypeError(f"{self.name}: expected {self.type.__name__}, got {value!r}")
        if self.range and not self.range.minimum <= value <= self.range.maximum:
            raise ValueError(f"{self.name}: {value} is not within {self.range}")
        if self.isNode:
            wrapper.parameterNode.SetNodeReferenceID(self.name, value.GetID() if value else None)
        else:
            wrapper.parameterNode.SetParameter(self.name, str(value))

    def connector(self, widget: Any) -> _Connector:
        if self.isNode and type(widget) is slicer.qMRMLNodeComboBox:
            return _NODES
        if (self.type, type(widget)) not in _CONNECTORS:
            raise RuntimeError(f"Unable to create GUI connector from {self.type} to {type(widget)}")
        if self.range:
            widget.setRange(self.range.minimum, self.range.maximum)
        return _CONNECTORS[self.type, type(widget)]


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: annotated fields become properties backed by a parameter node."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: _Field(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    return type(cls.__name__, (_Wrapper,), {**fields, "_fields": fields, "__doc__": cls.__doc__})


class _Wrapper:
    _fields: dict[str, _Field]

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._connections: dict[int, list[tuple[Any, Callable[..., None]]]] = {}
        for name, field in self._fields.items():
            if not field.isNode and not parameterNode.GetParameter(name):
                setattr(self, name, field.default)

    def connectGui(self, gui: Any) -> int:
        pairs = [(w.property("SlicerParameterName"), w) for w in vars(gui).values() if hasattr(w, "property")]
        pairs = [(self._fields[name], widget, self._fields[name].connector(widget)) for name, widget in pairs if name]
        updating = []

        def toGui(caller: Any = None, event: str = "") -> None:
            updating.append(True)
            for field, widget, connector in pairs:
                connector.write(widget, getattr(self, field.name))
            updating.pop()

        slots = []
        for field, widget, connector in pairs:

            def fromGui(
                *_: Any, field: _Field = field, widget: Any = widget, connector: _Connector = connector
            ) -> None:
                if not updating:
                    setattr(self, field.name, connector.read(widget))

            signal = getattr(widget, connector.signal)
            signal.connect(fromGui)
            slots.append((signal, fromGui))
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, toGui)
        self._connections[tag] = slots
        toGui()
        return tag

    def disconnectGui(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)
        for signal, slot in self._connections.pop(tag):
            signal.disconnect(slot)

    def __getattr__(self, name: str) -> Any:
        if name == "parameterNode":
            raise AttributeError(name)
        return getattr(self.parameterNode, name)  # AddObserver, GetID, ...: the wrapper passes for its node
