"""What goes on between the module and its server: one state machine, without widgets, Qt or MRML.

Two things may run at a time: one operation the user waits for (connect, next volume, upload, segment, submit), and
one training, which goes on beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import wording
from .cancellation import Cancellation
from .client import MODEL, ServerClient, TrainStatus
from .errors import ClientError
from .operations import Operation, Operations, RunningJob
from .server_info import ServerInfo, labelValues
from .signal import Signal
from .training import followTraining
from .translation import tr as _


class Session(Operations):
    """Talks to one server at a time.

    Every method returns at once. Results are handed to ``onDone`` on the thread of the window; the outcome in words
    is in ``messages``. A ``folder`` given to an operation is temporary and removed when the operation has ended.
    """

    def __init__(self, newJob: Callable[[Any], RunningJob]) -> None:
        super().__init__(newJob)
        self.connected = Signal()
        self.info: ServerInfo | None = None
        self._client: ServerClient | None = None
        self._training: TrainStatus | None = None

    @property
    def address(self) -> str:
        """The connected server's address in full, "" without one."""
        return str(self._client.address) if self._client else ""

    @property
    def isLoopback(self) -> bool:
        """Whether the server runs on this computer."""
        return self._client is not None and self._client.address.isLoopback

    @property
    def training(self) -> TrainStatus | None:
        """Where the training stands, None while there is none."""
        return self._training if self.isRunning(Operation.TRAIN) else None

    def mayStart(self, operation: Operation) -> bool:
        """Whether nothing stands in the way on this side."""
        if operation is Operation.CONNECT:
            return self.waitedFor is None
        free = not self.isRunning(operation) if operation is Operation.TRAIN else self.waitedFor is None
        return free and self.info is not None

    def connectTo(self, address: str) -> None:
        """Ask the server what it offers; a training it is busy with is followed from there on."""
        self.disconnect()
        try:
            client = ServerClient(address)
        except ClientError as error:
            self.fail(Operation.CONNECT, error)
            return

        def work(cancellation: Cancellation, report: Any) -> tuple[ServerInfo, TrainStatus]:
            ours = client.cancelledBy(cancellation)
            return ServerInfo.parse(ours.info()), ours.trainStatus()

        def done(result: tuple[ServerInfo, TrainStatus]) -> None:
            self._client = client
            info, status = result
            self._learnt(info)
            self.connected.emit()
            if status.isActive:
                self._follow(None)

        self.start(Operation.CONNECT, _("Connecting to {address}...").format(address=client.address), work, done)

    def disconnect(self) -> None:
        """Forget the server. What runs is abandoned; a training goes on over there."""
        self._client = self.info = None
        self.abandonAll()

    def nextVolume(self, folder: Path, onDone: Callable[[Path, str], None]) -> None:
        """Fetch the volume to label next into ``folder``; ``onDone(path, imageId)``."""
        client, info = self._server()
        strategy = "random" if "random" in info.strategies else next(iter(info.strategies), "random")

        def work(cancellation: Cancellation, report: Any) -> tuple[Path, str] | None:
            ours = client.cancelledBy(cancellation)
            sample = ours.nextSample(strategy)
            return (ours.downloadImage(sample["id"], folder), sample["id"]) if sample else None

        def done(result: tuple[Path, str] | None) -> None:
            if result is None:
                self.say(Operation.NEXT, _("Every volume on the server is labelled."))
                return
            onDone(*result)
            self.say(Operation.NEXT, _("Loaded {id}.").format(id=result[1]))

        self.start(Operation.NEXT, _("Fetching the next volume..."), work, done, folder)

    def upload(self, path: Path, chooseId: Callable[[Sequence[str]], str], onDone: Callable[[str], None]) -> None:
        """Send a volume; ``chooseId(taken)`` names it, given the ids the server has already. ``onDone(imageId)``."""
        client, _info = self._server()

        def work(cancellation: Cancellation, report: Any) -> tuple[str, ServerInfo]:
            ours = client.cancelledBy(cancellation)
            identifier = ours.uploadImage(path, chooseId(list(ours.datastore())))
            return identifier, ServerInfo.parse(ours.info())

        def done(result: tuple[str, ServerInfo]) -> None:
            identifier, info = result
            self._learnt(info)
            onDone(identifier)
            self.say(Operation.UPLOAD, _("Uploaded as {id}.").format(id=identifier))

        self.start(Operation.UPLOAD, _("Uploading..."), work, done, path.parent)

    def segment(
        self, imageId: str, version: str, folder: Path, onDone: Callable[[Path, dict[str, int], str], None]
    ) -> None:
        """Let the server segment a volume it has; ``onDone(path, name -> value, version used)``."""
        client, info = self._server()

        def work(cancellation: Cancellation, report: Any) -> tuple[Path, dict[str, Any]]:
            return client.cancelledBy(cancellation).infer(MODEL, imageId, folder, {"version": version})

        def done(result: tuple[Path, dict[str, Any]]) -> None:
            path, parameters = result
            used = str(parameters.get("version") or version)
            onDone(path, labelValues(parameters.get("label_names") or info.labels), used)
            self.say(Operation.SEGMENT, wording.segmented(used, parameters.get("warnings") or ()))

        self.start(Operation.SEGMENT, _("Segmenting..."), work, done, folder)

    def submit(
        self, imageId: str, path: Path, labelInfo: Sequence[Mapping[str, Any]], describe: Callable[[int], str]
    ) -> None:
        """Send a label map; ``describe(labelled)`` words the outcome, given how many volumes are labelled now."""
        client, _info = self._server()

        def work(cancellation: Cancellation, report: Any) -> ServerInfo:
            ours = client.cancelledBy(cancellation)
            ours.saveLabel(imageId, path, labelInfo)
            return ServerInfo.parse(ours.info())

        def done(info: ServerInfo) -> None:
            self._learnt(info)
            self.say(Operation.SUBMIT, describe(info.labelled))

        self.start(Operation.SUBMIT, _("Submitting..."), work, done, path.parent)

    def train(self, settings: Mapping[str, Any]) -> None:
        """Start a training with the server's ``settings`` and follow it."""
        self._follow(dict(settings))

    def _follow(self, settings: dict[str, Any] | None) -> None:
        """Watch a training until it ends, and start it before if there are ``settings``."""
        client, _info = self._server()

        def work(cancellation: Cancellation, report: Callable[[TrainStatus], None]) -> tuple[TrainStatus, ServerInfo]:
            status = followTraining(client, settings, cancellation, report)
            return status, ServerInfo.parse(client.info())

        def progressed(status: TrainStatus) -> None:
            self._training = status
            if not self.isCancelling(Operation.TRAIN):
                self.say(Operation.TRAIN, wording.training(status))

        def done(result: tuple[TrainStatus, ServerInfo]) -> None:
            status, info = result
            self._learnt(info)
            self.say(Operation.TRAIN, wording.trained(status), isError=status.state not in ("done", "stopped"))

        self._training = TrainStatus("submitted")
        self.start(Operation.TRAIN, wording.training(self._training), work, done, progressed=progressed)

    def _learnt(self, info: ServerInfo) -> None:
        self.info = info
        self.say(Operation.CONNECT, wording.server(info))

    def _server(self) -> tuple[ServerClient, ServerInfo]:
        if self._client is None or self.info is None:
            raise ClientError(_("Connect to a server first."))
        return self._client, self.info
