"""Client of a MONAI Label server's REST interface: standard library only, without Slicer and without Qt.

Every method blocks and may be called on any thread; inside Slicer that is a :class:`~.background.Job`'s. Whatever
goes wrong is raised as a :class:`~.errors.ClientError` whose text is meant for the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .address import Address
from .cancellation import Cancellation
from .errors import AddressInvalid, AnswerInvalid, Cancelled, ClientError, ServerRefused
from .multipart import VOLUME_SUFFIXES, Form, splitAnswer, volumeSuffix
from .recipes import Recipe, parseRecipe
from .train_status import TrainStatus, parseOwnStatus, parseStatus, runIdOf
from .translation import tr as _
from .transport import Timeouts, Transport
from .versions import Version, parseVersion

MODEL = "segmentation"  # the infer task of a trained version, and the one train task
WHOLE_VOLUME = "whole_volume"  # the infer task of a version that was trained about whole volumes
FINAL = "final"  # MONAI Label's tag of labels a person has approved; training uses these
POLL_SECONDS = 0.5  # between two looks at a job on the server
IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ServerClient:
    """One MONAI Label server.

    :param address: as a person types it, see :meth:`Address.parse`.
    :param timeout: seconds allowed for each phase of a request.
    :param cancellation: ends what is in progress, see :meth:`cancelledBy`.
    :param token: sent with each request; "" for servers that ask for none.
    :raises AddressInvalid: if the address or the token cannot be understood.
    """

    def __init__(
        self,
        address: str,
        timeout: Timeouts | None = None,
        cancellation: Cancellation | None = None,
        token: str = "",
    ) -> None:
        self.address = Address.parse(address)
        if not token.isascii() or not (token + "x").isprintable():
            raise AddressInvalid(_("The token contains characters that no token has. Copy it again."))
        self.timeout = timeout or Timeouts()
        self._token = token
        self._transport = Transport(self.address, self.timeout, cancellation, token)

    def cancelledBy(self, cancellation: Cancellation) -> ServerClient:
        """The same server, with requests that end when ``cancellation`` is requested."""
        return ServerClient(str(self.address), self.timeout, cancellation, self._token)

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

    def uploadImage(self, path: str | Path, imageId: str, report: Callable[[float], None] | None = None) -> str:
        """Send a volume and give the id the server keeps it under; an image of that id is replaced.

        :param report: told the share that was sent, 0 to 1.
        """
        path = Path(path)
        # The server derives the file kind from the name; the user's own file and folder names stay here.
        upload = Form({"params": "{}"}, "file", path, "image" + _suffix(path), report)
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

    def labelValues(self, imageId: str, tag: str = FINAL) -> dict[str, int]:
        """Name -> voxel value of a submitted label, as it was told with it; empty if nothing was told."""
        info = self._json("GET", "/datastore/label/info", {"label": imageId, "tag": tag}) or {}
        return {str(entry["name"]): int(entry["idx"]) for entry in info.get("label_info") or ()}

    def infer(
        self,
        model: str,
        imageId: str,
        folder: str | Path,
        params: Mapping[str, Any] | None = None,
        label: Path | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """Segment a volume the server has, or compute something else of it.

        :param label: a label map that goes along: scribbles, or a segmentation to correct.
        :return: the result's file in ``folder``, and the server's parameters (``label_names`` and more).
        """
        fields = {"params": json.dumps(params or {})}
        upload = Form(fields, "label", label, "label" + _suffix(label)) if label else Form(fields)
        query, target = {"image": imageId, "output": "all"}, f"/infer/{quote(model, safe='')}"
        silence = self.timeout.compute
        with self._transport.request("POST", target, query, body=upload, silence=silence) as answer:
            body = answer.save(_inside(folder, f"{imageId}-answer", ".multipart"))
            try:
                stem = _inside(folder, f"{imageId}-{model}", "")
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

    def trainAgain(self, training: str) -> dict[str, Any]:
        """Start a training of FM3D's own server once more that did not come to its end."""
        return self._json("POST", "/train/again", {"id": training})

    def trainStatus(self, model: str = MODEL, staleRun: str = "", training: str = "") -> TrainStatus:
        """Where a training stands.

        :param staleRun: ``runId`` read before the training started. Until a run has written its first figures the
            server shows those of the run before, which are left out then.
        :param training: id of the one meant, on a server with a queue; without it, the one that runs, or the last.
        """
        try:
            tasks = self._json("GET", "/train/", {"all": "true"}) if training else [self._json("GET", "/train/")]
        except ServerRefused as error:
            if error.status != 404:  # 404: nothing was ever trained since the server started
                raise
            tasks = []
        task = next((task for task in tasks if task and (not training or task.get("id") == training)), {})
        stats = (self.info().get("train_stats") or {}).get(model) or {}
        if staleRun and runIdOf(stats) == staleRun:
            stats = {}
        return parseOwnStatus(task, stats) if training else parseStatus(task, stats)

    def stopTraining(self, training: str = "") -> None:
        """Stop a training. A stock server cannot stop one that only waits: call again while it is active."""
        self._json("DELETE", "/train/", {"id": training} if training else None)

    # -- FM3D's own addresses, which a stock MONAI Label server does not have

    def versions(self) -> tuple[Version, ...]:
        """What was learned so far, newest first; empty where the server keeps no versions."""
        try:
            listing = self._json("GET", "/adapters/")
        except ServerRefused as error:
            if error.status != 404:
                raise
            return ()
        return tuple(parseVersion(entry) for entry in listing.get("versions") or ())

    def recipes(self) -> tuple[Recipe, ...]:
        """Published trainings that can be asked for; empty where the server offers none."""
        try:
            listing = self._json("GET", "/recipes/")
        except ServerRefused as error:
            if error.status != 404:
                raise
            return ()
        return tuple(parseRecipe(entry) for entry in listing.get("recipes") or ())

    def answer(self, imageId: str, version: str) -> dict[str, Any]:
        """What a version says about a volume as a whole: ``answer``, its ``kind``, ``version``, ``warnings``."""
        query, body = {"image": imageId, "output": "json"}, Form({"params": json.dumps({"version": version})})
        answer = self._json("POST", f"/infer/{WHOLE_VOLUME}", query, body=body, silence=self.timeout.compute)
        if not isinstance(answer, dict):
            raise AnswerInvalid(_("The server's answer contains nothing about the volume."))
        return answer

    def activate(self, version: int) -> None:
        """Let this version segment from now on."""
        self._json("POST", f"/adapters/{version}/activate")

    def rollBack(self) -> int:
        """Return to the version that was active before; it is given."""
        return int(self._json("POST", "/adapters/roll-back")["version"])

    def compare(self, one: int, other: int, report: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        """Dice of two versions on the submitted cases; ``report`` is told where the server's job stands."""
        job = self._json("POST", "/adapters/compare", body={"a": one, "b": other, "cases": None})
        return self._follow(str(job["job"]), report)

    def _follow(self, job: str, report: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        """Wait for the result of a job on the server; it is ended there too when this side is cancelled."""
        target = f"/jobs/{quote(job, safe='')}"
        try:
            while True:
                status = self._json("GET", target)
                if status.get("state") == "done":
                    return dict(status.get("result") or {})
                if status.get("state") not in ("waiting", "running"):
                    raise ClientError(str(status.get("error") or _("The server ended this without a reason.")))
                report(status)
                self._transport.cancellation.wait(POLL_SECONDS)
                self._transport.cancellation.check()
        except Cancelled:
            self.cancelledBy(Cancellation())._json("DELETE", target)
            raise

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
