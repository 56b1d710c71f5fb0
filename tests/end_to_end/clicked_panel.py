"""The panel connected to a real server, and the hands of the one who clicks in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6", reason="the panel needs Qt: pip install -e .[dev]")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import slicer_env


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The panel's widget, shown and connected, all sections open; gone with its scene at the end."""
    try:
        slicer_env.install()
    except ImportError as error:
        pytest.skip(f"the panel needs slicer-core: pip install -e .[dev] ({error})")
    slicer_env.clear_scene()
    widget = slicer_env.make_widget()
    widget.parent.show()
    widget.enter()
    for name in ("models", "insight"):
        getattr(widget.ui, f"{name}CollapsibleButton").collapsed = False
    widget.ui.addressLineEdit.text = address
    press(widget, widget.ui.connectButton)
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()
    slicer_env.clear_scene()


def press(widget, button, seconds: float = 60, errors: bool = False) -> None:
    """Click and wait until what was started has ended, and well unless ``errors`` may be."""
    before = dict(widget.logic.session.messages)
    click(button)
    wait(widget, seconds)
    after = widget.logic.session.messages.items()
    found = [message.text for key, message in after if message.isError and message is not before.get(key)]
    assert errors or not found, found


def finish(widget, button, seconds: float = 60) -> None:
    """Click and wait until all that was started has ended, a training too, well or not."""
    click(button)
    assert slicer_env.process_events_until(lambda: not widget.logic.session._jobs, seconds)


def wait(widget, seconds: float) -> None:
    """Until nothing is waited for."""
    assert slicer_env.process_events_until(lambda: widget.logic.session.waitedFor is None, seconds)


def click(button) -> None:
    """A real mouse click, which a hidden or disabled button does not take."""
    import qt
    from PySide6.QtTest import QTest

    assert button.enabled and button.isVisible(), button.text
    QTest.mouseClick(button, qt.Qt.LeftButton)


def choose(box, key: str) -> None:
    """Pick an entry of a combo box by what it stands for."""
    keys = [box.itemData(index) for index in range(box.count)]
    assert key in keys, keys
    box.setCurrentIndex(keys.index(key))
