"""Shows a session on the panel's widgets. It reads nothing but what the user chose in the combo boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer

from . import wording
from .operations import Operation
from .server_info import ServerInfo
from .session import Session
from .translation import tr as _

ERROR_STYLE = "color: #c62828"  # readable on Slicer's light and dark themes


class Panel:
    """The widgets of SlicerFM3D.ui.

    :param ui: as :func:`slicer.util.childWidgetVariables` gives it.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self.buttons = {
            Operation.CONNECT: ui.connectButton,
            Operation.NEXT: ui.nextButton,
            Operation.UPLOAD: ui.uploadButton,
            Operation.SEGMENT: ui.segmentButton,
            Operation.SUBMIT: ui.submitButton,
            Operation.TRAIN: ui.trainButton,
        }
        self._texts = {operation: button.text for operation, button in self.buttons.items()}
        self._statusLabels = {
            ui.connectStatusLabel: (Operation.CONNECT,),
            ui.caseStatusLabel: (Operation.NEXT, Operation.UPLOAD),
            ui.segmentStatusLabel: (Operation.SEGMENT,),
            ui.submitStatusLabel: (Operation.SUBMIT,),
            ui.trainStatusLabel: (Operation.TRAIN,),
        }
        self._choices = {"method": (ui.methodComboBox, ui.methodLabel), "preset": (ui.presetComboBox, ui.presetLabel)}

    @property
    def version(self) -> str:
        """The version the user chose to segment with."""
        return self._ui.versionComboBox.currentData or "active"

    @property
    def trainingChoices(self) -> dict[str, str]:
        """What the user chose for a training, by the server's own keys."""
        return {key: box.currentData for key, (box, _label) in self._choices.items() if box.currentData}

    def show(self, session: Session, volume: Any, segmentation: Any, isKnown: bool) -> None:
        """Bring every widget up to date.

        :param volume, segmentation: what is selected, or None.
        :param isKnown: whether the server has the volume.
        """
        self._showChoices(session.info)
        ready = {
            Operation.UPLOAD: volume is not None,
            Operation.SEGMENT: isKnown,
            Operation.SUBMIT: isKnown and segmentation is not None,
            Operation.TRAIN: session.info is not None and session.info.labelled > 0,
        }
        for operation, button in self.buttons.items():
            if session.isRunning(operation):
                button.text, button.enabled = _("Cancel"), not session.isCancelling(operation)
            else:
                button.text = self._texts[operation]
                button.enabled = session.mayStart(operation) and ready.get(operation, True)
        self._ui.editButton.enabled = volume is not None
        for label, operations in self._statusLabels.items():
            self._showMessage(label, session, operations)
        self._showHints(session, volume, isKnown)
        self._showProgress(session)

    def _showMessage(self, label: Any, session: Session, operations: Sequence[Operation]) -> None:
        newest = [message for operation, message in session.messages.items() if operation in operations]
        label.text = newest[-1].text if newest else ""
        label.styleSheet = ERROR_STYLE if newest and newest[-1].isError else ""
        label.visible = bool(newest)

    def _showHints(self, session: Session, volume: Any, isKnown: bool) -> None:
        """Say why a button is grey, where nothing more important is said."""
        ui, info = self._ui, session.info
        hints = {}
        if info is None and not session.messages:
            hints[ui.connectStatusLabel] = _("Not connected.")
        elif info is not None:
            if volume is None:
                hints[ui.caseStatusLabel] = _("Fetch a volume from the server, or load one and upload it.")
            elif not isKnown:
                hints[ui.caseStatusLabel] = _("This volume is not on the server yet.")
            if not info.hasLearned:
                hints[ui.segmentStatusLabel] = _("Nothing learned yet: submit labels, then train.")
            if not info.labelled:
                hints[ui.trainStatusLabel] = _("Submit at least one label first.")
        for label, text in hints.items():
            if not label.text:
                label.text, label.visible = text, True

    def _showProgress(self, session: Session) -> None:
        bar, status = self._ui.trainProgressBar, session.training
        bar.visible = status is not None
        if status:
            bar.maximum = status.total  # 0 makes it a busy bar: nobody knows yet
            bar.value = min(status.step, status.total)

    def _showChoices(self, info: ServerInfo | None) -> None:
        _fill(self._ui.versionComboBox, info.versions if info else ("active",), wording.version)
        for key, (box, label) in self._choices.items():
            offered = info.choices.get(key, ()) if info else ()
            _fill(box, offered, wording.method)
            box.visible = label.visible = bool(offered)


def openSegmentEditor(segmentation: Any, volume: Any) -> None:
    """Go to Slicer's Segment Editor with this segmentation; without a main window there is nowhere to go."""
    if slicer.util.mainWindow() is None:
        return
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.setSegmentationNode(segmentation)
    editor.setSourceVolumeNode(volume)


def _fill(box: Any, keys: Sequence[str], word: Callable[[str], str]) -> None:
    """Offer these keys, and keep the user's choice if it is still among them."""
    if [box.itemData(index) for index in range(box.count)] == list(keys):
        return
    chosen = box.currentData
    box.clear()
    for key in keys:
        box.addItem(word(key), key)
    box.setCurrentIndex(keys.index(chosen) if chosen in keys else 0)
