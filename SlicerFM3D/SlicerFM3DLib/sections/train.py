"""Train: what is learned, from which cases, and how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from .. import curve, wording
from ..operations import Operation
from ..translation import tr as _
from .section import Section, fill, fit, keep, setting

CURVE_HEIGHT = 110
MOST_ROWS = 6


class TrainSection(Section):
    """Starts a training and shows it."""

    uiFile = "Train"

    def setup(self) -> None:
        ui = self.ui
        self._drawn: Any = None
        self.offer(Operation.TRAIN, ui.trainButton, self._train, self._isReady)
        self.tell(ui.trainStatusLabel, Operation.TRAIN)
        ui.trainAgainButton.clicked.connect(self._trainAgain)
        ui.presetComboBox.currentIndexChanged.connect(lambda *_index: self.refresh())
        for widget in (ui.labelsListWidget, ui.casesListWidget):
            widget.itemChanged.connect(lambda *_item: self.refresh())

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        presets = info.choices.get("preset", ()) if info else ()
        if presets and "none" not in presets:
            presets = (*presets, "none")
        fill(ui.presetComboBox, presets, wording.preset)
        ui.presetComboBox.visible = ui.presetLabel.visible = bool(presets)
        methods = info.choices.get("method", ()) if info else ()
        fill(ui.methodComboBox, methods, wording.method)
        ui.methodComboBox.visible = ui.methodLabel.visible = bool(methods)
        ui.advancedGroupBox.enabled = not presets or ui.presetComboBox.currentData == "none"
        self._showList(ui.labelsListWidget, ui.learnLabel, info.labels if info else None)
        self._showList(ui.casesListWidget, ui.casesLabel, info.labelledCases if info else None)
        if info and not info.labelled:
            self.hint(ui.trainStatusLabel, _("Submit at least one label first."))
        self._showProgress()

    def onConnected(self) -> None:
        self.refresh()
        kept = self.ui.presetComboBox.findData(setting("Preset", "auto"))
        self.ui.presetComboBox.setCurrentIndex(max(0, kept))

    def _showProgress(self) -> None:
        ui, status = self.ui, self.session.training
        runs = self.session.isRunning(Operation.TRAIN)
        ui.trainProgressBar.visible = runs
        ui.trainAgainButton.visible = not runs and status is not None and status.canStartAgain
        ui.trainAgainButton.enabled = self.session.mayStart(Operation.TRAIN)
        if runs and status:
            ui.trainProgressBar.maximum = status.total  # 0 makes it a busy bar: nobody knows yet
            ui.trainProgressBar.value = min(status.step, status.total)
        points = status.curve if status else ()
        ui.curveLabel.visible = len(points) > 1
        wanted = (points, status.versions, ui.trainButton.width) if len(points) > 1 else None
        if wanted and wanted != self._drawn:
            self._drawn = wanted
            ink = ui.curveLabel.palette.color(qt.QPalette.WindowText)
            ui.curveLabel.setPixmap(curve.paint(points, status.versions, ui.trainButton.width, CURVE_HEIGHT, ink))

    def _showList(self, widget: Any, label: Any, names: Sequence[str] | None) -> None:
        """Offer these names, ticked unless the user has taken the tick away; None while there is no server."""
        widget.visible = label.visible = bool(names)
        there = [widget.item(row).text() for row in range(widget.count)]
        if names is None or there == list(names):
            return
        unticked = set(there) - set(ticked(widget))
        widget.clear()
        widget.addItems(list(names))
        for row, name in enumerate(names):
            widget.item(row).setCheckState(qt.Qt.Unchecked if name in unticked else qt.Qt.Checked)
        fit(widget, len(names), MOST_ROWS)

    def _trainAgain(self, _checked: bool = False) -> None:
        with self.session.toldAt(Operation.TRAIN):
            self.session.trainAgain()

    def _isReady(self) -> bool:
        lists = (self.ui.labelsListWidget, self.ui.casesListWidget)
        chosen = all(widget.count == 0 or ticked(widget) for widget in lists)
        return chosen and self.session.info is not None and self.session.info.labelled > 0

    def _train(self) -> None:
        ui = self.ui
        preset = ui.presetComboBox.currentData
        keep("Preset", preset or "")
        settings: dict[str, Any] = {"preset": preset}
        if preset in (None, "none"):  # a preset decides on method and time itself
            settings = {"method": ui.methodComboBox.currentData, "seconds": self.panel.parameters.seconds, **settings}
        for key, widget in (("labels", ui.labelsListWidget), ("cases", ui.casesListWidget)):
            chosen = ticked(widget)
            if len(chosen) < widget.count:  # all: the server decides, and takes what was submitted meanwhile
                settings[key] = chosen
        self.session.train({key: value for key, value in settings.items() if value})


def ticked(widget: Any) -> list[str]:
    """The names with a tick."""
    items = [widget.item(row) for row in range(widget.count)]
    return [item.text() for item in items if item.checkState() == qt.Qt.Checked]
