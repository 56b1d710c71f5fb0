"""What goes on between the module and its server: one state machine, without widgets, Qt or MRML.

One operation the user waits for (connect, next volume, upload, segment, submit, ...) runs at a time; a training, a
comparison and a server of one's own go on beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import wording
from .cancellation import Cancellation
from .client import MODEL, ServerClient
from .errors import ClientError
from .operations import BESIDE, Operation, Operations, RunningJob
from .server_info import ServerInfo, labelValues
from .signal import Signal
from .train_status import WAITING, TrainStatus
from .training import followTraining
from .translation import tr as _

Question = Callable[[ServerClient, Callable[[Any], None]], Any]


class Session(Operations):
    """Talks to one server at a time.

    Every method returns at once. Results are handed to ``onDone`` on the thread of the window; the outcome in words
    is in ``messages``. A ``folder`` given to an operation is temporary and removed when the operation has ended.
    """

    def __init__(self, newJob: Callable[[Any], RunningJob]) -> None:
        super().__init__(newJob)
        self.connected = Signal()
        self.info: ServerInfo | None = None
        self.training: TrainStatus | None = None  # the one that runs, or the last one
        self._client: ServerClient | None = None

    @property
    def address(self) -> str:
        """The connected server's address in full, "" without one."""
        return str(self._client.address) if self._client else ""

    @property
    def isLoopback(self) -> bool:
        """Whether the server runs on this computer."""
        return self._client is not None and self._client.address.isLoopback

    def mayStart(self, operation: Operation) -> bool:
        """Whether nothing stands in the way on this side."""
        free = not self.isRunning(operation) if operation in BESIDE else self.waitedFor is None
        return free and (self.info is not None or operation in (Operation.CONNECT, Operation.LOCAL_SERVER))

    def connectTo(self, address: str, token: str = "") -> None:
        """Ask the server what it offers; a training it is busy with is followed from there on."""
        self.disconnect()
        try:
            client = ServerClient(address, token=token)
        except ClientError as error:
            self.fail(Operation.CONNECT, error)
            return

        def work(cancellation: Cancellation, report: Any) -> tuple[ServerInfo, TrainStatus]:
            ours = client.cancelledBy(cancellation)
            return ServerInfo.ask(ours), ours.trainStatus()

        def done(result: tuple[ServerInfo, TrainStatus]) -> None:
            self._client = client
            info, status = result
            self.learnt(info)
            self.connected.emit()
            if status.isActive:
                self._follow(None)
            elif status.canStartAgain and status.state == "interrupted":  # nobody was there to see it
                self.training = status
                self.say(Operation.TRAIN, wording.trained(status), isError=True)

        self.start(Operation.CONNECT, _("Connecting to {address}...").format(address=client.address), work, done)

    def disconnect(self) -> None:
        """Forget the server. What runs is abandoned; a training goes on over there."""
        self._client = self.info = self.training = None
        self.abandonAll(but=Operation.LOCAL_SERVER)

    def close(self) -> None:
        """The window goes: end a server of one's own too, and hear nothing any more."""
        self.disconnect()
        self.abandonAll()

    def ask(
        self,
        operation: Operation,
        text: str,
        question: Question,
        done: Callable[[Any], None],
        folder: Path | None = None,
        progressed: Callable[[Any], None] | None = None,
    ) -> None:
        """Let ``question(client, report)`` run in a thread; ``done`` gets what it returns.

        :raises ClientError: without a server.
        """
        client, _info = self.server()
        self.start(operation, text, lambda c, report: question(client.cancelledBy(c), report), done, folder, progressed)

    def nextVolume(self, folder: Path, onDone: Callable[[Path, str], None], strategy: str = "") -> None:
        """Fetch the volume to label next into ``folder``; ``onDone(path, imageId)``."""
        _client, info = self.server()
        if strategy not in info.strategies:
            strategy = "random" if "random" in info.strategies else next(iter(info.strategies), "random")

        def question(client: ServerClient, report: Any) -> tuple[Path, str] | None:
            sample = client.nextSample(strategy)
            return (client.downloadImage(sample["id"], folder), sample["id"]) if sample else None

        def done(result: tuple[Path, str] | None) -> None:
            if result is None:
                self.say(Operation.NEXT, _("Every volume on the server is labelled."))
                return
            onDone(*result)
            self.say(Operation.NEXT, _("Loaded {id}.").format(id=result[1]))

        self.ask(Operation.NEXT, _("Fetching the next volume..."), question, done, folder)

    def openLabelled(self, imageId: str, folder: Path, onDone: Callable[[Path, Path, dict[str, int]], None]) -> None:
        """Fetch a volume and its submitted label; ``onDone(image, label, name -> value)``."""
        _client, info = self.server()

        def question(client: ServerClient, report: Any) -> tuple[Path, Path, dict[str, int]]:
            values = client.labelValues(imageId) or labelValues(info.labels)
            return client.downloadImage(imageId, folder), client.downloadLabel(imageId, folder), values

        def done(result: tuple[Path, Path, dict[str, int]]) -> None:
            onDone(*result)
            self.say(Operation.OPEN, _("Opened {id} with its label.").format(id=imageId))

        self.ask(Operation.OPEN, _("Fetching {id}...").format(id=imageId), question, done, folder)

    def upload(self, path: Path, chooseId: Callable[[Sequence[str]], str], onDone: Callable[[str], None]) -> None:
        """Send a volume; ``chooseId(taken)`` names it, given the ids the server has already. ``onDone(imageId)``."""

        def question(client: ServerClient, report: Any) -> tuple[str, ServerInfo]:
            identifier = client.uploadImage(path, chooseId(list(client.datastore())), report)
            return identifier, ServerInfo.ask(client)

        def progressed(share: float) -> None:
            if not self.isCancelling(Operation.UPLOAD):
                self.say(Operation.UPLOAD, _("Uploading... {percent:.0f} %").format(percent=100 * share))

        def done(result: tuple[str, ServerInfo]) -> None:
            identifier, info = result
            self.learnt(info)
            onDone(identifier)
            self.say(Operation.UPLOAD, _("Uploaded as {id}.").format(id=identifier))

        self.ask(Operation.UPLOAD, _("Uploading..."), question, done, path.parent, progressed)

    def segment(
        self, imageId: str, version: str, folder: Path, onDone: Callable[[Path, dict[str, int], str], None]
    ) -> None:
        """Let the server segment a volume it has; ``onDone(path, name -> value, version used)``."""
        _client, info = self.server()

        def question(client: ServerClient, report: Any) -> tuple[Path, dict[str, Any]]:
            return client.infer(MODEL, imageId, folder, {"version": version})

        def done(result: tuple[Path, dict[str, Any]]) -> None:
            path, parameters = result
            used = str(parameters.get("version") or version)
            onDone(path, labelValues(parameters.get("label_names") or info.labels), used)
            self.say(Operation.SEGMENT, wording.segmented(used, parameters))

        self.ask(Operation.SEGMENT, _("Segmenting..."), question, done, folder)

    def submit(
        self, imageId: str, path: Path, labelInfo: Sequence[Mapping[str, Any]], describe: Callable[[int], str]
    ) -> None:
        """Send a label map; ``describe(labelled)`` words the outcome, given how many volumes are labelled now."""

        def question(client: ServerClient, report: Any) -> ServerInfo:
            client.saveLabel(imageId, path, labelInfo)
            return ServerInfo.ask(client)

        def done(info: ServerInfo) -> None:
            self.learnt(info)
            self.say(Operation.SUBMIT, describe(info.labelled))

        self.ask(Operation.SUBMIT, _("Submitting..."), question, done, path.parent)

    def train(self, settings: Mapping[str, Any]) -> None:
        """Start a training with the server's ``settings`` and follow it."""
        self._follow(dict(settings))

    def trainAgain(self) -> None:
        """Start the last training once more, which was interrupted or has failed, and follow it."""
        if self.training is not None and self.training.canStartAgain:
            self._follow(None, self.training.id)

    def _follow(self, settings: dict[str, Any] | None, again: str = "") -> None:
        """Watch a training until it ends, and start it before if there are ``settings`` or one is to come ``again``."""
        client, _info = self.server()

        def work(cancellation: Cancellation, report: Callable[[Any], None]) -> tuple[TrainStatus, ServerInfo]:
            known: set[int] = set()

            def news(status: TrainStatus) -> None:
                report(status)
                early = {version.number for version in status.versions}
                if early - known:  # it can be chosen at once
                    known.update(early)
                    report(ServerInfo.ask(client))

            status = followTraining(client, settings, cancellation, news, again)
            return status, ServerInfo.ask(client)

        def progressed(news: TrainStatus | ServerInfo) -> None:
            if isinstance(news, ServerInfo):
                self.learnt(news)
                return
            self.training = news
            if not self.isCancelling(Operation.TRAIN):
                self.say(Operation.TRAIN, wording.training(news))

        def done(result: tuple[TrainStatus, ServerInfo]) -> None:
            self.training, info = result
            self.learnt(info)
            ended = self.training.state in ("done", "cancelled")
            self.say(Operation.TRAIN, wording.trained(self.training), isError=not ended)

        self.training = TrainStatus(WAITING)
        self.start(Operation.TRAIN, wording.training(self.training), work, done, progressed=progressed)

    def learnt(self, info: ServerInfo) -> None:
        """The server has said anew what it offers."""
        self.info = info
        self.say(Operation.CONNECT, wording.server(info))

    def server(self) -> tuple[ServerClient, ServerInfo]:
        """The server and what it has said.

        :raises ClientError: without one.
        """
        if self._client is None or self.info is None:
            raise ClientError(_("Connect to a server first."))
        return self._client, self.info
