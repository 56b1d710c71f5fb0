"""Server: address, connection, and a server of one's own."""

from __future__ import annotations

import ctk
import slicer

from .. import local_server
from ..operations import Operation
from ..translation import tr as _
from .section import Section, keep, setting

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class ServerSection(Section):
    """Connects to a server, which it may start itself."""

    uiFile = "Server"

    def setup(self) -> None:
        ui = self.ui
        self.offer(Operation.CONNECT, ui.connectButton, self._connect)
        self.offer(Operation.LOCAL_SERVER, ui.localServerButton, self._startServer, lambda: bool(self._folder))
        self.tell(ui.connectStatusLabel, Operation.CONNECT)
        self.tell(ui.localServerStatusLabel, Operation.LOCAL_SERVER)
        ui.addressLineEdit.text = setting("ServerAddress", DEFAULT_ADDRESS)
        ui.commandLineEdit.text = setting("ServerCommand", local_server.DEFAULT_COMMAND)
        ui.folderPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.folderPathLineEdit.currentPath = setting("ServerFolder", "")
        ui.addressLineEdit.returnPressed.connect(self._connect)
        ui.tokenLineEdit.returnPressed.connect(self._connect)
        ui.folderPathLineEdit.currentPathChanged.connect(lambda *_path: self.refresh())

    def show(self) -> None:
        if self.session.info is None and Operation.CONNECT not in self.session.messages:
            self.hint(self.ui.connectStatusLabel, _("Not connected."))
        if self.session.isRunning(Operation.LOCAL_SERVER):
            self.ui.localServerButton.text = _("Stop server")
        elif not self._folder:
            self.hint(self.ui.localServerStatusLabel, _("Choose the folder where your images are or shall be."))

    def onConnected(self) -> None:
        keep("ServerAddress", self.session.address)

    def cleanup(self) -> None:
        self.session.cancel(Operation.LOCAL_SERVER)

    @property
    def _folder(self) -> str:
        return self.ui.folderPathLineEdit.currentPath.strip()

    def _connect(self) -> None:
        if self.session.mayStart(Operation.CONNECT):
            self.session.connectTo(self.ui.addressLineEdit.text, self.ui.tokenLineEdit.text.strip())

    def _startServer(self) -> None:
        command, folder = self.ui.commandLineEdit.text.strip(), self._folder
        keep("ServerCommand", command)
        keep("ServerFolder", folder)
        arguments = local_server.arguments(command, folder)
        environment = slicer.util.startupEnvironment()  # not Slicer's own, which would mislead another Python

        def answers(address: str) -> None:
            self.session.say(Operation.LOCAL_SERVER, _("The server runs at {address}.").format(address=address))
            self.ui.addressLineEdit.text = address
            self.ui.tokenLineEdit.text = ""
            self.session.connectTo(address)

        self.session.start(
            Operation.LOCAL_SERVER,
            _("Starting the server, which takes about half a minute..."),
            lambda cancellation, report: local_server.run(arguments, environment, cancellation, report),
            lambda _result: self.session.say(Operation.LOCAL_SERVER, _("The server has ended.")),
            progressed=answers,
        )
