"""The ``qt`` module of Slicer, made of PySide6 and bent to PythonQt's calling rules.

The rules that matter to a scripted module: every Qt property is a Python attribute (``button.text``, while
``button.text()`` is a TypeError), setters and ``isX()`` stay methods, ``name`` is an alias of ``objectName``, and
``slicer``'s own Python files connect with ``object.connect("signal(arguments)", slot)``.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets


def install() -> types.ModuleType:
    """Make ``import qt`` work; the module is returned."""
    qt = types.ModuleType("qt")
    for library in (QtCore, QtGui, QtWidgets, QtNetwork):
        for name in dir(library):  # PySide6's modules are lazy: vars() would miss most names
            if name.startswith("Q"):
                setattr(qt, name, getattr(library, name))
    for value in list(vars(qt).values()):
        if inspect.isclass(value) and issubclass(value, QtCore.QObject):
            _propertiesAsAttributes(value)
    QtCore.QObject.name = property(
        lambda self: self.property("objectName"), lambda self, name: self.setProperty("objectName", name)
    )
    sys.modules["qt"] = qt
    return qt


def addUiLoader(qt: types.ModuleType, customWidgets: list[type]) -> None:
    """``qt.QUiLoader`` that knows the stand-ins named in a .ui file."""

    class QUiLoader(QtUiTools.QUiLoader):
        def __init__(self, parent: QtCore.QObject | None = None) -> None:
            super().__init__(parent)
            for widget in customWidgets:
                self.registerCustomWidget(widget)

    qt.QUiLoader = QUiLoader


def connect(self: QtCore.QObject, signature: str, slot: Callable[..., Any]) -> bool:
    """``object.connect("signal(arguments)", slot)``, for stand-ins that Slicer's own code talks to in this way."""
    getattr(self, signature.partition("(")[0]).connect(slot)
    return True


def disconnect(self: QtCore.QObject, signature: str, slot: Callable[..., Any]) -> bool:
    """The counterpart of :func:`connect`."""
    getattr(self, signature.partition("(")[0]).disconnect(slot)
    return True


def _propertiesAsAttributes(cls: type[QtCore.QObject]) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        qtProperty = meta.property(index)
        name = qtProperty.name()
        setter = _setter(name) if qtProperty.isWritable() else None
        setattr(cls, name, property(_getter(name), setter))


def _getter(name: str) -> Callable[[QtCore.QObject], Any]:
    return lambda self: self.property(name)


def _setter(name: str) -> Callable[[QtCore.QObject, Any], None]:
    def write(self: QtCore.QObject, value: Any) -> None:
        if not self.setProperty(name, value):
            raise TypeError(f"cannot set {name} to {value!r}")

    return write
