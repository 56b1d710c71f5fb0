"""Segmenting by prompts: sends all of them, brings the answer into the structure's segment, and again for the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import labelmaps, scene, segments, wording
from .errors import SceneError
from .files import temporaryFolder
from .operations import Operation
from .prompts import Prompts
from .session import Session
from .translation import tr as _

INTERACTIVE = "interactive"  # the model's name on the server


@dataclass(frozen=True)
class Target:
    """What is segmented.

    Attributes:
        volume, segmentation: nodes of the scene.
        structure: name of the segment.
    """

    volume: Any
    segmentation: Any
    structure: str


class PromptSteps:
    """One request at a time; prompts that come meanwhile are sent when it has been answered.

    A structure that is drawn already is corrected: its state before the first prompt goes along, and comes back when
    all prompts are taken back. What the user has drawn by hand between two prompts is corrected likewise.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._target: Target | None = None
        self._before: Any = None  # the segment's voxels before the first prompt
        self._drawn = 0  # when the server's last answer was drawn
        self._next: Prompts | None = None

    def begin(self, target: Target) -> None:
        """Remember how the structure is drawn now, if these are the first prompts for it."""
        if target != self._target:
            self._target, self._drawn = target, 0
            self._before = segments.segmentVoxels(target.segmentation, target.volume, target.structure)

    def end(self) -> None:
        """The next prompts are for something new."""
        self._target = self._before = self._next = None

    def update(self, prompts: Prompts) -> None:
        """Segment from these prompts; :meth:`begin` has said what.

        :raises SceneError: if there is nothing to go by, or the scene has lost its nodes.
        """
        target = self._target
        if target is None:
            raise SceneError(_("Choose a structure first."))
        scene.present(target.volume)
        scene.present(target.segmentation)
        if self._session.isRunning(Operation.PROMPTS):
            self._next = prompts
            return
        if self._drawn and segments.drawnAt(target.segmentation, target.structure) != self._drawn:
            # the user's own work between two prompts, never to be lost
            self._before = segments.segmentVoxels(target.segmentation, target.volume, target.structure)
        scribbles = segments.scribbles(target.segmentation, target.volume, target.structure)
        if prompts.isEmpty and scribbles is None:
            self._restore(target)
            return
        self._send(target, prompts, scribbles)

    def _send(self, target: Target, prompts: Prompts, scribbles: Any) -> None:
        parameters = prompts.asParameters(target.structure)
        self._next = given = None
        if scribbles is not None:
            parameters["given"], given = "scribbles", scribbles
        elif self._before.any():
            parameters["given"], given = "segmentation", self._before
        imageId = scene.imageId(target.volume, self._session.address)
        with temporaryFolder() as folder:
            label = None if given is None else labelmaps.writeLabelArray(given, target.volume, folder / "given.nrrd")

            def done(result: tuple[Path, dict[str, Any]]) -> None:
                path, answer = result
                self._bringIn(target, path)
                self._session.say(Operation.PROMPTS, wording.prompted(target.structure, answer))
                self._sendWaiting()

            self._session.ask(
                Operation.PROMPTS,
                _("Segmenting {structure}...").format(structure=target.structure),
                lambda client, report: client.infer(INTERACTIVE, imageId, folder, parameters, label),
                done,
                folder,
            )

    def _bringIn(self, target: Target, path: Path) -> None:
        scene.present(target.segmentation)
        self._draw(target, labelmaps.readLabelArray(path, scene.present(target.volume)) == 1)

    def _restore(self, target: Target) -> None:
        self._draw(target, self._before)
        text = _("Click inside '{structure}', or draw a box around it.")
        self._session.say(Operation.PROMPTS, text.format(structure=target.structure))

    def _draw(self, target: Target, mask: Any) -> None:
        segments.setSegment(target.segmentation, target.volume, target.structure, mask)
        self._drawn = segments.drawnAt(target.segmentation, target.structure)

    def _sendWaiting(self) -> None:
        prompts, self._next = self._next, None
        if prompts is not None and self._target is not None:
            self.update(prompts)
