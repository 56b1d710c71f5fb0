"""Segment: by the model as a whole, or an answer about the volume as a whole."""

from __future__ import annotations

from typing import Any

from .. import overlays, wording
from ..operations import Operation
from ..translation import tr as _
from .section import Section, fill


class SegmentSection(Section):
    """Lets a version segment the volume, or answer its question about it."""

    uiFile = "Segment"

    def setup(self) -> None:
        ui = self.ui
        self.offer(Operation.SEGMENT, ui.segmentButton, self._ask, lambda: self.panel.isKnown)
        self.tell(ui.segmentStatusLabel, Operation.SEGMENT)
        ui.versionComboBox.currentIndexChanged.connect(lambda *_index: self.refresh())
        ui.uncertaintyCheckBox.toggled.connect(self._onUncertainty)

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        fill(ui.versionComboBox, info.offered if info else ("active",), self._word)
        text, ui.segmentButton.toolTip = wording.ask(self._answers)
        if not self.session.isRunning(Operation.SEGMENT):
            ui.segmentButton.text = text
        shows = info is None or overlays.INSIGHT in info.models
        ui.uncertaintyCheckBox.enabled = shows and not self._answers
        if info and not info.hasLearned:
            self.hint(self.ui.segmentStatusLabel, _("Nothing learned yet: submit labels, then train."))

    @property
    def _version(self) -> str:
        """The version the user has chosen."""
        return self.ui.versionComboBox.currentData or "active"

    @property
    def _answers(self) -> bool:
        """Whether it is one about whole volumes."""
        info = self.session.info
        return info is not None and info.answers(self._version)

    def _word(self, key: str) -> str:
        info = self.session.info
        return wording.answering(key) if info and key in info.answering else wording.version(key)

    def _ask(self) -> None:
        if self._answers:
            self.logic.answer(self.panel.volume, self._version)
        else:
            self.logic.segment(self.panel.volume, self._version, self._onSegmented)

    def _onSegmented(self, volume: Any, segmentation: Any) -> None:
        self.panel.select(volume, segmentation)
        if self.panel.parameters.showUncertainty:
            self.logic.insight(volume, overlays.UNCERTAINTY, self._version, overlays.OPACITY)

    def _onUncertainty(self, shown: bool) -> None:
        if not shown:
            overlays.hide(overlays.UNCERTAINTY)
