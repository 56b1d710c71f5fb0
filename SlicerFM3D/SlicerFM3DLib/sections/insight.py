"""Insight: what the network sees."""

from __future__ import annotations

from .. import overlays, wording
from ..operations import Operation
from ..translation import tr as _
from .section import Section, keep, setting


class InsightSection(Section):
    """Overlays of features, attention and uncertainty."""

    uiFile = "Insight"

    def setup(self) -> None:
        ui = self.ui
        for kind in overlays.KINDS:
            ui.insightComboBox.addItem(wording.insight(kind), kind)
        ui.opacitySlider.value = int(setting("OverlayOpacity", str(int(100 * overlays.OPACITY))))
        self.offer(Operation.INSIGHT, ui.insightButton, self._show, self._isReady)
        self.tell(ui.insightStatusLabel, Operation.INSIGHT)
        ui.insightComboBox.currentIndexChanged.connect(lambda *_index: self.refresh())
        ui.opacitySlider.valueChanged.connect(self._onOpacity)
        ui.hideInsightButton.clicked.connect(lambda *_checked: self._hide())

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        ui.insightNoteLabel.text = wording.insightNote(ui.insightComboBox.currentData)
        ui.hideInsightButton.enabled = bool(overlays.shown())
        if info and overlays.INSIGHT not in info.models:
            self.hint(ui.insightStatusLabel, _("This server does not show what its network sees."))

    def _isReady(self) -> bool:
        info = self.session.info
        return info is not None and overlays.INSIGHT in info.models and self.panel.isKnown

    def _show(self) -> None:
        version = self.ui.versionComboBox.currentData or "active"
        kind, opacity = self.ui.insightComboBox.currentData, self.ui.opacitySlider.value / 100
        self.logic.insight(self.panel.volume, kind, version, opacity)

    def _hide(self) -> None:
        overlays.hide()
        self.refresh()

    def _onOpacity(self, percent: int) -> None:
        keep("OverlayOpacity", str(percent))
        overlays.setOpacity(percent / 100)
