"""Between scene and session: writes what is to be sent, brings in what has come. Usable without the panel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from . import answers, overlays, scene, side_by_side, wording
from .background import Job
from .client import MODEL, ServerClient
from .files import temporaryFolder
from .model_steps import ModelSteps
from .operations import Operation
from .segments import addMissingSegments
from .server_info import labelValues
from .session import Session
from .translation import tr as _


class Workflow:
    """The clinician's steps, each begun at once and finished when the server has answered."""

    def __init__(self) -> None:
        self.session = Session(Job)
        self.models = ModelSteps(self.session)

    def nextVolume(self, onDone: Callable[[Any], None], strategy: str = "") -> None:
        """Fetch and load the volume to label next; ``onDone(volume)``."""

        def load(path: Path, imageId: str) -> None:
            volume = scene.readVolume(path, imageId)
            scene.rememberImageId(volume, self.session.address, imageId)
            onDone(volume)

        with temporaryFolder() as folder:
            self.session.nextVolume(folder, load, strategy)

    def openLabelled(self, imageId: str, onDone: Callable[[Any, Any], None]) -> None:
        """Fetch a volume with its submitted label; ``onDone(volume, segmentation)``. One in the scene is used again."""

        def load(image: Path, label: Path, values: dict[str, int]) -> None:
            volume = scene.volumeWithId(imageId, self.session.address)
            if volume is None:
                volume = scene.readVolume(image, imageId)
                scene.rememberImageId(volume, self.session.address, imageId)
            name = slicer.mrmlScene.GenerateUniqueName(wording.segmentationName(volume.GetName(), ""))
            segmentation = scene.readSegmentation(label, volume, values, name)
            scene.hideOthers(segmentation, volume)
            onDone(volume, segmentation)

        with temporaryFolder() as folder:
            self.session.openLabelled(imageId, folder, load)

    def upload(self, volume: Any) -> None:
        """Send a volume. The id it had on this server is kept; a new one is made from its name."""
        known, name = scene.imageId(volume, self.session.address), volume.GetName()

        def remember(imageId: str) -> None:
            scene.rememberImageId(scene.present(volume), self.session.address, imageId)

        with temporaryFolder() as folder:
            path = scene.writeVolume(volume, folder / "image.nrrd")
            self.session.upload(path, lambda taken: known or scene.newImageId(name, taken), remember)

    def segment(self, volume: Any, version: str, onDone: Callable[[Any, Any], None]) -> None:
        """Let the server segment a volume; ``onDone(volume, segmentation)``. Earlier segmentations stay, hidden."""

        def load(path: Path, values: dict[str, int], used: str) -> None:
            name = wording.segmentationName(scene.present(volume).GetName(), used)
            segmentation = scene.readSegmentation(path, volume, values, slicer.mrmlScene.GenerateUniqueName(name))
            scene.hideOthers(segmentation, volume)
            onDone(volume, segmentation)

        with temporaryFolder() as folder:
            self.session.segment(scene.imageId(volume, self.session.address), version, folder, load)

    def answer(self, volume: Any, version: str) -> None:
        """Put the question of a version about whole volumes; the answer is the message of :attr:`Operation.SEGMENT`."""
        operation, session, name = Operation.SEGMENT, self.session, volume.GetName()
        imageId = scene.imageId(volume, session.address)

        def done(answer: dict[str, Any]) -> None:
            _client, info = session.server()
            used = str(answer.get("version") or version)
            session.say(operation, answers.inWords(name, answer, info.labelsOf(used)))

        session.ask(operation, _("Answering..."), lambda client, report: client.answer(imageId, version), done)

    def insight(self, volume: Any, kind: str, version: str, opacity: float) -> None:
        """Compute what the network sees in a volume, and lay it over the volume."""
        operation, session = Operation.INSIGHT, self.session
        imageId = scene.imageId(volume, session.address)

        with temporaryFolder() as folder:

            def done(result: tuple[Path, dict[str, Any]]) -> None:
                path, answer = result
                overlays.show(path, scene.present(volume), wording.insight(kind), kind, opacity)
                session.say(operation, " ".join([_("Shown over the volume."), *(answer.get("warnings") or ())]))

            session.ask(
                operation,
                _("Computing..."),
                lambda client, report: client.infer("insight", imageId, folder, {"kind": kind, "version": version}),
                done,
                folder,
            )

    def sideBySide(self, volume: Any, one: int, other: int) -> None:
        """Segment a volume with two versions and show them next to each other."""
        session, operation = self.session, Operation.SIDE_BY_SIDE
        imageId = scene.imageId(volume, session.address)

        def question(client: ServerClient, report: Any) -> list[tuple[Path, dict[str, Any]]]:
            results = []
            for version in (one, other):
                (folder / str(version)).mkdir()
                results.append(client.infer(MODEL, imageId, folder / str(version), {"version": str(version)}))
            return results

        def done(results: list[tuple[Path, dict[str, Any]]]) -> None:
            shown = []
            for (path, answer), version in zip(results, (one, other), strict=True):
                values = labelValues(answer.get("label_names") or session.info.labels)
                name = wording.segmentationName(scene.present(volume).GetName(), str(version))
                name = slicer.mrmlScene.GenerateUniqueName(name)
                shown.append(scene.readSegmentation(path, volume, values, name))
            side_by_side.show(volume, *shown)
            text = _("Left: version {one}. Right: version {other}.")
            session.say(operation, text.format(one=one, other=other))

        with temporaryFolder() as folder:
            text = _("Segmenting with both versions...")
            session.ask(operation, text, question, done, folder)

    def submit(self, segmentation: Any, volume: Any, structures: str) -> None:
        """Send the segments named in ``structures`` as the label of a volume."""
        with temporaryFolder() as folder:
            label = scene.writeLabel(segmentation, volume, scene.parseNames(structures), folder / "label.nrrd")
            self.session.submit(
                scene.imageId(volume, self.session.address),
                label.path,
                label.labelInfo,
                lambda labelled: wording.submitted(labelled, label.empty, label.ignored, label.overlap),
            )

    def segmentationToEdit(self, segmentation: Any, volume: Any, structures: str) -> Any:
        """The segmentation with a segment for each structure; a new one if there is none."""
        names = scene.parseNames(structures)
        if not segmentation:
            return scene.createSegmentation(volume, names, wording.segmentationName(volume.GetName(), ""))
        addMissingSegments(segmentation, names)
        return segmentation
