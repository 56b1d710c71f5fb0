"""Train: what is learned, from which cases, and how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from .. import curve, wording
from ..operations import Operation
from ..recipes import NO_RECIPE, OWN_WEIGHTS, Recipe
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
        for box in (ui.presetComboBox, ui.recipeComboBox, ui.weightsComboBox):
            box.currentIndexChanged.connect(lambda *_index: self.refresh())
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
        self._showRecipes()
        recipe = self._recipe()
        ownWeights = recipe is not None and ui.weightsComboBox.currentData == OWN_WEIGHTS
        ui.methodComboBox.visible = ui.methodLabel.visible = bool(methods)
        ui.methodComboBox.enabled = not ownWeights
        ui.advancedGroupBox.enabled = not presets or ui.presetComboBox.currentData == "none"
        self._showList(ui.labelsListWidget, ui.learnLabel, info.labels if info else None)
        self._showList(ui.casesListWidget, ui.casesLabel, info.labelledCases if info else None)
        if recipe is not None:  # it says what is learned
            ui.labelsListWidget.visible = ui.learnLabel.visible = False
        if recipe is not None and recipe.wholeVolume:
            ui.casesListWidget.visible = ui.casesLabel.visible = False
        elif info and not info.labelled:
            self.hint(ui.trainStatusLabel, _("Submit at least one label first."))
        self._showProgress()

    def onConnected(self) -> None:
        self.refresh()
        kept = self.ui.presetComboBox.findData(setting("Preset", "auto"))
        self.ui.presetComboBox.setCurrentIndex(max(0, kept))

    def _showRecipes(self) -> None:
        """Offer the published trainings; the tooltip says what the chosen one asks for."""
        ui, info = self.ui, self.session.info
        recipes = {recipe.name: recipe for recipe in info.recipes} if info else {}
        fill(ui.recipeComboBox, (NO_RECIPE, *recipes), wording.recipe)
        ui.recipeComboBox.visible = ui.recipeLabel.visible = bool(recipes)
        for row, recipe in enumerate(recipes.values(), start=1):
            ui.recipeComboBox.setItemData(row, wording.recipeDetails(recipe), qt.Qt.ToolTipRole)
        chosen = recipes.get(ui.recipeComboBox.currentData)
        general = _("A published training: its preparation of volumes, crops, method and length")
        ui.recipeComboBox.toolTip = wording.recipeDetails(chosen) if chosen else general
        fill(ui.weightsComboBox, info.choices.get("weights", ()) if info else (), wording.weights)
        ui.weightsComboBox.visible = ui.weightsLabel.visible = bool(recipes)
        ui.weightsComboBox.enabled = chosen is not None
        ui.secondsSpinBox.specialValueText = _("as published") if chosen else _("as the server says")

    def _recipe(self) -> Recipe | None:
        """The published training that is chosen, under a preset of one's own only."""
        info, name = self.session.info, self.ui.recipeComboBox.currentData
        if info is None or self.ui.presetComboBox.currentData not in (None, "none"):
            return None
        return next((recipe for recipe in info.recipes if recipe.name == name), None)

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
        recipe = self._recipe()
        if recipe is not None and recipe.wholeVolume:  # the server knows whether it has the answers
            return self.session.info is not None and self.session.info.total > 0
        lists = (self.ui.casesListWidget, *((self.ui.labelsListWidget,) if recipe is None else ()))
        chosen = all(widget.count == 0 or ticked(widget) for widget in lists)
        return chosen and self.session.info is not None and self.session.info.labelled > 0

    def _train(self) -> None:
        ui, recipe = self.ui, self._recipe()
        preset = ui.presetComboBox.currentData
        keep("Preset", preset or "")
        settings: dict[str, Any] = {"preset": preset}
        if preset in (None, "none"):  # a preset decides on method and time itself
            settings = {"method": ui.methodComboBox.currentData, "seconds": self.panel.parameters.seconds, **settings}
        lists = {"labels": ui.labelsListWidget, "cases": ui.casesListWidget}
        if recipe is not None:
            settings |= {"recipe": recipe.name, "weights": ui.weightsComboBox.currentData}
            if settings["weights"] == OWN_WEIGHTS:
                del settings["method"], settings["weights"]
            lists = {} if recipe.wholeVolume else {"cases": ui.casesListWidget}
        for key, widget in lists.items():
            chosen = ticked(widget)
            if len(chosen) < widget.count:  # all: the server decides, and takes what was submitted meanwhile
                settings[key] = chosen
        self.session.train({key: value for key, value in settings.items() if value})


def ticked(widget: Any) -> list[str]:
    """The names with a tick."""
    items = [widget.item(row) for row in range(widget.count)]
    return [item.text() for item in items if item.checkState() == qt.Qt.Checked]
