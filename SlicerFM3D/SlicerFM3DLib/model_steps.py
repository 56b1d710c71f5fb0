"""What can be done with the versions a server keeps: activate one, roll back, compare two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import wording
from .client import ServerClient
from .operations import Operation
from .server_info import ServerInfo
from .session import Session
from .translation import tr as _
from .versions import Comparison, parseComparison


class ModelSteps:
    """Steps beside the clinician's loop, on one session.

    :ivar comparison: the last one, None while there is none.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.comparison: Comparison | None = None

    def activate(self, version: int) -> None:
        """Segment with this version from now on."""
        self._change(lambda client: client.activate(version), _("Activating version {n}...").format(n=version))

    def rollBack(self) -> None:
        """Return to the version that was active before."""
        self._change(lambda client: client.rollBack(), _("Rolling back..."))

    def _change(self, change: Callable[[ServerClient], Any], text: str) -> None:
        def question(client: ServerClient, report: Any) -> ServerInfo:
            change(client)
            return ServerInfo.ask(client)

        def done(info: ServerInfo) -> None:
            self._session.learnt(info)
            number = info.active.number if info.active else "?"
            self._session.say(Operation.VERSIONS, _("Version {n} is active.").format(n=number))

        self._session.ask(Operation.VERSIONS, text, question, done)

    def compare(self, one: int, other: int) -> None:
        """Dice of two versions on the submitted labels."""
        self.comparison = None

        def progressed(status: Mapping[str, Any]) -> None:
            if not self._session.isCancelling(Operation.COMPARE):
                self._session.say(Operation.COMPARE, wording.job(_("Comparing..."), status))

        def done(result: Mapping[str, Any]) -> None:
            self.comparison = parseComparison(one, other, result)
            self._session.say(Operation.COMPARE, wording.compared(self.comparison))

        self._session.ask(
            Operation.COMPARE,
            _("Comparing..."),
            lambda client, report: client.compare(one, other, report),
            done,
            progressed=progressed,
        )
