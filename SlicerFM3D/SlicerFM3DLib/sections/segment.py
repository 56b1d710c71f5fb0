"""Segment: by the model as a whole."""

from __future__ import annotations

from typing import Any

from .. import overlays, wording
from ..operations import Operation
from ..translation import tr as _
from .section import Section, fill


class SegmentSection(Section):
    """Lets a version segment the volume."""

    uiFile = "Segment"

    def setup(self) -> None:
        ui = self.ui
        self.offer(Operation.SEGMENT, ui.segmentButton, self._segment, lambda: self.panel.isKnown)
        self.tell(ui.segmentStatusLabel, Operation.SEGMENT)
        ui.uncertaintyCheckBox.toggled.connect(self._onUncertainty)

    def show(self) -> None:
        info = self.session.info
        fill(self.ui.versionComboBox, info.versions if info else ("active",), wording.version)
        self.ui.uncertaintyCheckBox.enabled = info is None or overlays.INSIGHT in info.models
        if info and not info.hasLearned:
            self.hint(self.ui.segmentStatusLabel, _("Nothing learned yet: submit labels, then train."))

    def _segment(self) -> None:
        version = self.ui.versionComboBox.currentData or "active"
        self.logic.segment(self.panel.volume, version, self._onSegmented)

    def _onSegmented(self, volume: Any, segmentation: Any) -> None:
        self.panel.select(volume, segmentation)
        if self.panel.parameters.showUncertainty:
            version = self.ui.versionComboBox.currentData or "active"
            self.logic.insight(volume, overlays.UNCERTAINTY, version, overlays.OPACITY)

    def _onUncertainty(self, shown: bool) -> None:
        if not shown:
            overlays.hide(overlays.UNCERTAINTY)
