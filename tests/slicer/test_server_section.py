"""Server: a server of one's own is started, used and ended; a token goes with each request and is stored nowhere."""

from __future__ import annotations

import sys
import time

import pytest
import qt
from monailabel_peer import jsonReply
from panel_clicks import click, finish
from slicer_env import make_widget, process_events_until
from SlicerFM3DLib import local_server
from SlicerFM3DLib.errors import ClientError
from SlicerFM3DLib.operations import Operation

# In place of fm3d: says where the test's own server listens, as fm3d serve does, and runs until it is ended.
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open({ended!r}, "w").close(), sys.exit(0)))
open({asked!r}, "w").write(" ".join(sys.argv[1:]))
print("Starting the server")
print("The server answers at {address} (images: there)")
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path, peer):
    program = tmp_path / "fm3d.py"
    ended, asked = str(tmp_path / "ended"), str(tmp_path / "asked")
    program.write_text(PROGRAM.format(ended=ended, asked=asked, address=peer.address))
    return f'"{sys.executable}" "{program}"'


@pytest.fixture
def opened(widget):
    widget.ui.localServerGroupBox.collapsed = False
    assert not widget.ui.localServerButton.enabled, "a folder is needed"
    return widget


def test_a_server_is_started_connected_to_and_stopped_by_clicks(opened, command, peer, tmp_path):
    ui = opened.ui
    ui.commandLineEdit.text = command
    ui.folderPathLineEdit.currentPath = str(tmp_path / "my images")
    click(ui.localServerButton)
    assert ui.localServerButton.text == "Stop server" and "Starting" in ui.localServerStatusLabel.text
    assert process_events_until(lambda: opened.logic.session.info)
    assert (tmp_path / "asked").read_text() == f"serve {tmp_path / 'my images'} --port 0"
    assert ui.localServerStatusLabel.text == f"The server runs at {peer.address}."
    assert ui.addressLineEdit.text == peer.address and "Connected" in ui.connectStatusLabel.text
    click(ui.connectButton)  # connecting anew does not end it
    assert process_events_until(lambda: opened.logic.session.info)
    assert opened.logic.session.isRunning(Operation.LOCAL_SERVER)
    click(ui.localServerButton)
    assert process_events_until(lambda: ui.localServerButton.text == "Start server")
    assert (tmp_path / "ended").exists()


def test_the_server_ends_with_the_panel(command, tmp_path):
    widget = make_widget()
    widget.ui.commandLineEdit.text = command
    widget.ui.folderPathLineEdit.currentPath = str(tmp_path)
    widget.ui.localServerButton.click()
    assert process_events_until(lambda: widget.logic.session.info)
    widget.cleanup()
    deadline = time.monotonic() + 5
    while not (tmp_path / "ended").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program", "'no-such-program' cannot be run"),
        ('fm3d "unclosed', "unclosed quotation mark"),
        (" ", "Say how FM3D is called"),
        (f'"{sys.executable}" -c "print(1); raise SystemExit(\'port 8000 is taken. Choose another.\')"', "port 8000"),
    ],
)
def test_what_goes_wrong_is_said_in_words(opened, tmp_path, command, words):
    ui = opened.ui
    ui.commandLineEdit.text, ui.folderPathLineEdit.currentPath = command, str(tmp_path)
    finish(opened, ui.localServerButton)
    assert words in ui.localServerStatusLabel.text and ui.localServerButton.text == "Start server"


def test_a_path_with_blanks_needs_no_quotation_marks(tmp_path):
    program = tmp_path / "my programs" / "fm3d"
    program.parent.mkdir()
    program.touch()
    assert local_server.arguments(str(program), "f")[0] == str(program)
    with pytest.raises(ClientError):
        local_server.arguments("", "f")


def test_a_token_is_sent_with_each_request_and_stored_nowhere(widget, peer):
    peer.token = "s3cret"
    ui = widget.ui
    ui.addressLineEdit.text = peer.address
    finish(widget, ui.connectButton)
    assert "asks for a token" in ui.connectStatusLabel.text and widget.logic.session.info is None
    ui.tokenLineEdit.text = "s3cret"
    finish(widget, ui.connectButton)
    assert widget.logic.session.info and ui.tokenLineEdit.echoMode == qt.QLineEdit.Password
    settings = qt.QSettings()
    assert "s3cret" not in str({key: settings.value(key) for key in settings.allKeys()})
    assert "s3cret" not in widget.logic.getParameterNode().parameterNode.GetParameterNames().__str__()
    second = make_widget()
    assert second.ui.tokenLineEdit.text == ""
    second.cleanup()


def test_a_token_that_cannot_be_one_is_refused_before_it_is_sent(widget, peer):
    widget.ui.addressLineEdit.text, widget.ui.tokenLineEdit.text = peer.address, "schlüssel"
    finish(widget, widget.ui.connectButton)
    assert "characters that no token has" in widget.ui.connectStatusLabel.text and not peer.requests


def test_a_refusal_with_reasons_is_not_taken_for_a_missing_token(widget, peer):
    peer.overrides["GET /info/"] = jsonReply({"detail": "Requests of other web pages are refused."}, status=403)
    widget.ui.addressLineEdit.text = peer.address
    finish(widget, widget.ui.connectButton)
    assert widget.ui.connectStatusLabel.text == "Requests of other web pages are refused."
