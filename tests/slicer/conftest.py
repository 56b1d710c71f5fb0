"""Slicer for the module's tests: the real one where they run inside it, otherwise ``tests/slicer_env``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import slicer_env

slicer_env.install()


@pytest.fixture(autouse=True)
def fresh_scene():
    """One scene serves the whole process; each test finds it empty."""
    slicer_env.clear_scene()
    yield
    slicer_env.clear_scene()


@pytest.fixture
def peer():
    """A server of the tests' own."""
    from monailabel_peer import MonaiLabelPeer
    from panel_clicks import bright_and_dark

    with MonaiLabelPeer() as peer:
        peer.segment = lambda imageId, params: bright_and_dark(peer.images[imageId])
        yield peer


@pytest.fixture
def widget(monkeypatch):
    """The panel, shown, with the user in it."""
    from SlicerFM3DLib import client, training

    monkeypatch.setattr(training, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(client, "POLL_SECONDS", 0.05)
    widget = slicer_env.make_widget()
    widget.parent.show()
    widget.enter()
    yield widget
    widget.cleanup()
    widget.parent.deleteLater()


@pytest.fixture
def connected(widget, peer):
    """The panel, connected to the peer."""
    from panel_clicks import finish

    widget.ui.addressLineEdit.text = peer.address
    finish(widget, widget.ui.connectButton)
    assert widget.logic.session.info
    return widget
