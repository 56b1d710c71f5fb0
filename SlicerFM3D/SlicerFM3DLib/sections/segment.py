"""Segment: by the model as a whole."""

from __future__ import annotations

from .. import wording
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

    def show(self) -> None:
        info = self.session.info
        fill(self.ui.versionComboBox, info.versions if info else ("active",), wording.version)
        if info and not info.hasLearned:
            self.hint(self.ui.segmentStatusLabel, _("Nothing learned yet: submit labels, then train."))

    def _segment(self) -> None:
        version = self.ui.versionComboBox.currentData or "active"
        self.logic.segment(self.panel.volume, version, self.panel.select)
