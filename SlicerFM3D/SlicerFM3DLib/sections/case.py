"""Case: which volume is worked on, and how it gets to the server."""

from __future__ import annotations

import slicer

from .. import wording
from ..operations import Operation
from ..translation import tr as _
from .section import Section, fill, keep, setting


class CaseSection(Section):
    """Fetches, opens and uploads volumes."""

    uiFile = "Case"

    def setup(self) -> None:
        ui = self.ui
        self.shortcut("N", ui.nextButton)
        self.offer(Operation.NEXT, ui.nextButton, self._next)
        self.offer(Operation.OPEN, ui.openButton, self._open, lambda: bool(ui.labelledComboBox.currentData))
        self.offer(Operation.UPLOAD, ui.uploadButton, self._upload, lambda: self.panel.volume is not None)
        self.tell(ui.caseStatusLabel, Operation.NEXT, Operation.OPEN, Operation.UPLOAD)

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        fill(ui.strategyComboBox, info.strategies if info else (), wording.strategy)
        fill(ui.labelledComboBox, info.labelledCases if info else (), str)
        for label, box in ((ui.strategyLabel, ui.strategyComboBox), (ui.labelledLabel, ui.labelledComboBox)):
            label.enabled = box.enabled = box.count > 0
        if info and self.panel.volume is None:
            self.hint(ui.caseStatusLabel, _("Fetch a volume from the server, or load one and upload it."))
        elif info and not self.panel.isKnown:
            self.hint(ui.caseStatusLabel, _("This volume is not on the server yet."))

    def onConnected(self) -> None:
        fill(self.ui.strategyComboBox, self.session.info.strategies, wording.strategy)
        kept = self.ui.strategyComboBox.findData(setting("Strategy", "random"))
        self.ui.strategyComboBox.setCurrentIndex(max(0, kept))

    def _next(self) -> None:
        strategy = self.ui.strategyComboBox.currentData or ""
        keep("Strategy", strategy)
        self.logic.nextVolume(self.panel.select, strategy)

    def _open(self) -> None:
        self.logic.openLabelled(self.ui.labelledComboBox.currentData, self.panel.select)

    def _upload(self) -> None:
        volume, session = self.panel.volume, self.session
        question = wording.consent(volume.GetName(), session.address, session.isLoopback)
        key = f"SlicerFM3D/UploadTo_{session.address.replace('/', '_')}"  # another server is asked for anew
        if slicer.util.confirmOkCancelDisplay(question, dontShowAgainSettingsKey=key):
            self.logic.upload(volume)
