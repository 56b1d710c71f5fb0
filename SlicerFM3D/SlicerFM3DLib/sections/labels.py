"""Labels: drawing and submitting them."""

from __future__ import annotations

from typing import Any

import slicer

from .. import scene, wording
from ..errors import SceneError
from ..operations import Operation
from ..translation import tr as _
from .section import Section


class LabelsSection(Section):
    """Draws segments in the Segment Editor and submits them by name."""

    uiFile = "Labels"

    def setup(self) -> None:
        ui = self.ui
        ready = lambda: self.panel.isKnown and self.panel.segmentation is not None  # noqa: E731
        self.offer(Operation.SUBMIT, ui.submitButton, self._submit, ready)
        self.tell(ui.submitStatusLabel, Operation.SUBMIT)
        ui.editButton.clicked.connect(self._edit)

    def show(self) -> None:
        self.ui.editButton.enabled = self.panel.volume is not None
        try:
            names = scene.parseNames(self.panel.parameters.structures)
            self.ui.valuesLabel.text = _("Sent as: {values}").format(values=wording.values(names))
        except SceneError as error:
            self.ui.valuesLabel.text = str(error)
        if self.session.info and self.panel.volume is not None and not self.panel.isKnown:
            self.hint(self.ui.submitStatusLabel, _("The server needs the volume first: upload it under Case."))
        elif self.session.info and self.panel.volume is not None and self.panel.segmentation is None:
            self.hint(self.ui.submitStatusLabel, _("Draw the structures first, by Edit segments or by clicks."))

    def onConnected(self) -> None:
        if self.session.info.labels:
            self.panel.parameters.structures = ", ".join(self.session.info.labels)

    def _submit(self) -> None:
        self.logic.submit(self.panel.segmentation, self.panel.volume, self.panel.parameters.structures)

    def _edit(self, _checked: bool = False) -> None:
        node = self.panel.parameters
        with slicer.util.tryWithErrorDisplay(_("Unexpected error.")), self.session.toldAt(Operation.SUBMIT):
            node.segmentation = self.logic.segmentationToEdit(node.segmentation, node.inputVolume, node.structures)
            openSegmentEditor(node.segmentation, node.inputVolume)


def openSegmentEditor(segmentation: Any, volume: Any, segment: str = "") -> None:
    """Go to Slicer's Segment Editor with this segmentation; without a main window there is nowhere to go.

    :param segment: id of the segment to select, "" for the first.
    """
    if slicer.util.mainWindow() is None:
        return
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.setSegmentationNode(segmentation)
    editor.setSourceVolumeNode(volume)
    if segment:
        editor.setCurrentSegmentID(segment)
