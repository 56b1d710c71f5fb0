"""Client of a MONAI Label server's REST interface: standard library only, without Slicer and without Qt.

Every method blocks and may be called on any thread; inside Slicer that is a :class:`~.background.Job`'s. Whatever
goes wrong is raised as a :class:`~.errors.ClientError` whose text is meant for the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .address import Address
from .cancellation import Cancellation
from .errors import AnswerInvalid, ClientError, ServerRefused
from .multipart import VOLUME_SUFFIXES, Form, splitAnswer, volumeSuffix
from .translation import tr as _
from .transport import Timeouts, Transport

MODEL = "segmentation"  # FM3D's one infer task and one train task
FINAL = "final"  # MONAI Label's tag of labels a person has approved; training uses these
IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class TrainStatus:
    """Where a training stands.

    Attributes:
        state: ``never``, ``submitted``, ``running``, ``done``, ``error`` or ``stopped``.
        stage: what is being done, in words; empty until the server tells.
        step, total: steps done and planned in this stage; total 0 while unknown.
        elapsed, eta: seconds since the start and seconds left, None while unknown.
        loss: the training loss, None while unknown.
        metrics: named figures such as ``{"dice": 0.81}``.
        runId: which run these figures belong to.
        version: the adapter version that came out, when done.
        leftOut: cases that could not be used, each with its reason.
        error: what went wrong, in words.
    """

    state: str
    stage: str = ""
    step: int = 0
    total: int = 0
    elapsed: float | None = None
    eta: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    runId: str = ""
    version: int | None = None
    leftOut: tuple[str, ...] = ()
    error: str = ""

    @property
    def isActive(self) -> bool:
        """Whether the training waits or runs."""
        return self.state in ("submitted", "running")


class ServerClient:
    """One MONAI Label server.

    :param address: as a person types it, see :meth:`Address.parse`.
    :param timeout: seconds allowed for each phase of a request.
    :param cancellation: ends what is in progress, see :meth:`cancelledBy`.
    :raises AddressInvalid: if the address cannot be understood.
    """

    def __init__(self, address: str, timeout: Timeouts | None = None, cancellation: Cancellation | None = None) -> None:
        self.address = Address.parse(address)
        self.timeout = timeout or Timeouts()
        self._transport = Transport(self.address, self.timeout, cancellation)

    def cancelledBy(self, cancellation: Cancellation) -> ServerClient:
        """The same server, with requests that end when ``cancellation`` is requested."""
        return ServerClient(str(self.address), self.timeout, cancellation)

    def info(self) -> dict[str, Any]:
        """What the server offers: labels, models, trainers, strategies, datastore.

        :raises AnswerInvalid: if something else than a MONAI Label server answers.
        """
        info = self._json("GET", "/info/")
        if not isinstance(info, dict) or "models" not in info:
            raise AnswerInvalid(_("{address} is not a MONAI Label server.").format(address=self.address))
        return info

    def datastore(self) -> dict[str, Any]:
        """All images and labels the server keeps, by image id."""
        listing = self._json("GET", "/datastore/", {"output": "all"})
        return dict(listing.get("objects", {}))

    def nextSample(self, strategy: str = "random") -> dict[str, Any] | None:
        """The volume to label next (``id`` and more), or None when all are labelled."""
        sample = self._json("POST", f"/activelearning/{quote(strategy, safe='')}", body={})
        return sample if sample and sample.get("id") else None

    def uploadImage(self, path: str | Path, imageId: str) -> str:
        """Send a volume and give the id the server keeps it under; an image of that id is replaced."""
        path = Path(path)
        # The server derives the file kind from the name; the user's own file and folder names stay here.
        upload = Form({"params": "{}"}, "file", path, "image" + _suffix(path))
        query = {"image": _checked(imageId)}
        answer = self._json("PUT", "/datastore/image", query, body=upload, silence=self.timeout.compute)
        return str(answer.get("image", imageId))

    def downloadImage(self, imageId: str, folder: str | Path) -> Path:
        """Fetch a volume as ``folder/imageId.suffix``."""
        with self._transport.request("GET", "/datastore/image", {"image": imageId}) as answer:
            return answer.save(_inside(folder, imageId, volumeSuffix(answer.headers)))

    def downloadLabel(self, imageId: str, folder: str | Path, tag: str = FINAL) -> Path:
        """Fetch a volume's label map as ``folder/imageId-tag.suffix``."""
        with self._transport.request("GET", "/datastore/label", {"label": imageId, "tag": tag}) as answer:
            return answer.save(_inside(folder, f"{imageId}-{tag}", volumeSuffix(answer.headers)))

    def infer(
        self, model: str, imageId: str, folder: str | Path, params: Mapping[str, Any] | None = None
    ) -> tuple[Path, dict[str, Any]]:
        """Segment a volume the server has.

        :return: the label map's file in ``folder``, and the server's parameters (``label_names`` and more).
        """
        upload = Form({"params": json.dumps(params or {})})
        query, target = {"image": imageId, "output": "all"}, f"/infer/{quote(model, safe='')}"
        silence = self.timeout.compute
        with self._transport.request("POST", target, query, body=upload, silence=silence) as answer:
            body = answer.save(_inside(folder, f"{imageId}-answer", ".multipart"))
            try:
                stem = _inside(folder, f"{imageId}-segmentation", "")
                return splitAnswer(body, answer.headers.get("Content-Type", ""), stem)
            finally:
                body.unlink()

    def saveLabel(
        self, imageId: str, path: str | Path, labelInfo: Sequence[Mapping[str, Any]], tag: str = FINAL
    ) -> dict[str, Any]:
        """Submit a label map.

        :param labelInfo: what each voxel value means: ``[{"name": "liver", "idx": 1}, ...]``.
        """
        path = Path(path)
        fields = {"params": json.dumps({"label_info": list(labelInfo)})}
        upload = Form(fields, "label", path, "label" + _suffix(path))
        query = {"image": imageId, "tag": tag}
        return self._json("PUT", "/datastore/label", query, body=upload, silence=self.timeout.compute)

    def train(self, model: str = MODEL, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Start a training and give the server's task; its steps are read with :meth:`trainStatus`."""
        return self._json("POST", f"/train/{quote(model, safe='')}", body=dict(params or {}))

    def trainStatus(self, model: str = MODEL, staleRun: str = "") -> TrainStatus:
        """Where the last training stands.

        :param staleRun: ``runId`` read before the training started. Until a run has written its first figures the
            server shows those of the run before, which are left out then.
        """
        try:
            task = self._json("GET", "/train/")
        except ServerRefused as error:
            if error.status != 404:  # 404: nothing was ever trained since the server started
                raise
            task = {"status": "never"}
        stats = (self.info().get("train_stats") or {}).get(model) or {}
        runId = str(stats.get("run_id") or stats.get("start_ts") or "")
        if staleRun and runId == staleRun:
            stats = {}
        return _status(task, stats, runId)

    def stopTraining(self) -> None:
        """Stop the training. One that only waits cannot be stopped yet: call again while it is active."""
        self._json("DELETE", "/train/")

    def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, **how: Any) -> Any:
        with self._transport.request(method, path, query, **how) as answer:
            return answer.json()


def _checked(imageId: str) -> str:
    if not IMAGE_ID.fullmatch(imageId):
        raise ClientError(_("'{id}' cannot name a volume: only A-Z a-z 0-9 . _ - are allowed.").format(id=imageId))
    return imageId


def _suffix(path: Path) -> str:
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise ClientError(_("{path} is not a volume file this module sends.").format(path=path))


def _inside(folder: str | Path, name: str, suffix: str) -> Path:
    """A file in ``folder`` for a name that came from a server, whatever it contains."""
    return Path(folder) / (re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:160] + suffix)


def _status(task: Mapping[str, Any], stats: Mapping[str, Any], runId: str) -> TrainStatus:
    state = str(task.get("status", "never")).lower()
    return TrainStatus(
        state=state,
        stage=str(stats.get("stage") or ""),
        step=int(stats.get("step") or 0),
        total=int(stats.get("total") or 0),
        elapsed=stats.get("elapsed"),
        eta=stats.get("eta"),
        loss=stats.get("loss"),
        metrics=stats.get("metrics") or {},
        runId=runId,
        version=stats.get("version"),
        leftOut=tuple(stats.get("left_out") or ()),
        error=str(stats.get("error") or _lastLine(task)) if state == "error" else "",
    )


def _lastLine(task: Mapping[str, Any]) -> str:
    """The exception's text: the end of a failed process's log, without the exception's class."""
    lines = [line for line in task.get("details") or [] if line.strip()]
    if not lines:
        return _("The training failed without a reason. The server's log says more.")
    return re.sub(r"^[\w.]*(Error|Exception|Stopped): ", "", lines[-1])
