"""Runs Slicer modules outside Slicer: real Qt (PySide6), real MRML (slicer-core), stand-ins for what lies between.

Inside Slicer nothing is installed and the same tests run on the real thing. One Qt application and one scene exist
per process, however many test files share it: :func:`install` may be called any number of times, and
:func:`clear_scene` gives each test a fresh start.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "SlicerFM3D"
MODULE_NAME = "SlicerFM3D"


def install() -> None:
    """Make ``slicer``, ``qt`` and ``ctk`` importable as in Slicer, and the module's folder too."""
    if str(MODULE_FOLDER) not in sys.path:
        sys.path.insert(0, str(MODULE_FOLDER))
    slicer = _importSlicer()
    # In testing mode the original means to return True, but compares it with QMessageBox.Ok first.
    slicer.util.confirmOkCancelDisplay = lambda text, **options: True
    if hasattr(slicer, "app"):
        return
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtCore, QtWidgets

    slicer.qApplication = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    QtWidgets.QApplication.setStyle("Fusion")
    _separateSettings(QtCore)
    # A .ui connects signals with C++ arguments (vtkMRMLScene*), which the stand-ins hand on in Python.
    QtCore.QLoggingCategory.setFilterRules("qt.core.qobject.connect=false")

    from . import pythonqt

    qt = pythonqt.install()
    ctk = sys.modules["ctk"] = types.ModuleType("ctk")
    from . import application, widgets

    pythonqt.addUiLoader(qt, widgets.install(ctk))
    slicer.__path__.append(
        str(Path(__file__).parent / "slicer_modules")
    )  # after the import, which would run and star-import every file in it
    application.install(MODULE_FOLDER / f"{MODULE_NAME}.py")


def make_widget() -> Any:
    """The module's widget, set up as Slicer does when the user opens the module. Call its ``cleanup()`` at the end.

    Questions to the user (consent to an upload) are answered with OK.
    """
    install()
    import slicer

    return slicer.util.getNewModuleWidget(MODULE_NAME)


def process_events_until(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Let Qt work until ``condition()`` holds; whether it did within ``seconds``."""
    import slicer

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        slicer.app.processEvents()
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


def clear_scene() -> None:
    """An empty scene and empty settings, for the next test."""
    import qt
    import slicer

    slicer.mrmlScene.Clear(0)
    if type(slicer.app).__module__.startswith(__name__):  # a developer's own Slicer keeps its settings
        qt.QSettings().clear()


def save_screenshot(widget: Any, path: str | Path, width: int = 420) -> Path:
    """A picture of the panel as it stands now, with CTK and MRML widgets as this package draws them."""
    from PySide6 import QtCore

    _unfold(widget, width)
    bottom = widget.panel.widget.childrenRect.bottom() + 20
    widget.parent.grab(QtCore.QRect(0, 0, width, bottom)).save(str(path))
    return Path(path)


def save_section(widget: Any, name: str, path: str | Path, width: int = 420) -> Path:
    """A picture of one section of the panel."""
    _unfold(widget, width)
    getattr(widget.ui, f"{name}CollapsibleButton").grab().save(str(path))
    return Path(path)


def _unfold(widget: Any, width: int) -> None:
    """Give the panel all the height it can use; inside Slicer it lies in a scroll area instead."""
    panel = widget.parent
    panel.show()
    for more in (600, 601):  # lines that wrap settle only at the second change of size
        panel.resize(width, panel.sizeHint.height() + more)
        process_events_until(lambda: False, 0.1)


def _importSlicer() -> types.ModuleType:
    """``import slicer``, with folders out of sight that are only called so.

    slicer-core imports every Python file in every folder named ``slicer`` on the path, and ``tests/slicer`` is one.
    """
    if "slicer" in sys.modules:
        return sys.modules["slicer"]
    path = list(sys.path)
    sys.path[:] = [p for p in path if not (Path(p) / "slicer").is_dir() or (Path(p) / "slicer/__init__.py").is_file()]
    try:
        import slicer
        import slicer.util
    finally:
        sys.path[:] = path
    return slicer


def _separateSettings(QtCore: Any) -> None:
    """Settings in a temporary folder, so that no test touches the developer's own."""
    QtCore.QCoreApplication.setOrganizationName("FM3D tests")
    QtCore.QCoreApplication.setApplicationName(f"slicer_env-{os.getpid()}")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    folder = tempfile.mkdtemp(prefix="slicer_env_settings_")
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, folder)
