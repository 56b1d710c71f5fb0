"""Models: the versions that were learned, which one is active, and how two of them compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

from .. import side_by_side, wording
from ..operations import Operation
from ..translation import tr as _
from ..versions import Version
from .section import Section, fill, fit

MOST_ROWS = 6


class ModelsSection(Section):
    """Lists, activates and compares versions."""

    uiFile = "Models"

    def setup(self) -> None:
        ui = self.ui
        self._shownVersions: Sequence[Version] = ()
        self._shownComparison: Any = None
        self.offer(Operation.VERSIONS, ui.activateButton, self._activate, self._mayActivate)
        self.tell(ui.modelsStatusLabel, Operation.VERSIONS)
        self.tell(ui.compareStatusLabel, Operation.COMPARE, Operation.SIDE_BY_SIDE)
        self.offer(Operation.COMPARE, ui.compareButton, self._compare, self._mayCompare)
        self.offer(Operation.SIDE_BY_SIDE, ui.sideBySideButton, self._sideBySide, self._maySeeSideBySide)
        ui.rollBackButton.clicked.connect(self._rollBack)
        ui.versionsTableWidget.itemSelectionChanged.connect(self._onSelection)
        ui.compareComboBox.currentIndexChanged.connect(lambda *_index: self.refresh())
        headers = (_("Version"), _("Stage"), _("Expected Dice"), _("Cases"))
        _prepare(ui.versionsTableWidget, headers)
        notes = (
            _("Numbered in the order of training; the active one segments"),
            _("How far the training had got; each stage learns more of the network than the one before"),
            _("How well a further volume will probably be segmented; in brackets where that lies 4 times of 5"),
            _("Number of labelled volumes it was learned from"),
        )
        for column, note in enumerate(notes):
            ui.versionsTableWidget.horizontalHeaderItem(column).setToolTip(note)
        _prepare(ui.comparisonTableWidget, (_("Case"), _("First"), _("Second")))

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        versions = info.adapters if info else ()
        if versions != self._shownVersions:
            self._showVersions(versions)
        ui.versionsTableWidget.visible = bool(versions)
        ui.rollBackButton.enabled = self.session.mayStart(Operation.VERSIONS) and len(versions) > 1
        if info and not versions:
            self.hint(ui.modelsStatusLabel, _("Nothing learned yet. Each training adds a version here."))
        if len(versions) == 1:
            self.hint(ui.compareStatusLabel, _("There is one version so far; a second one can be compared with it."))
        if side_by_side.isShown() and not self.session.isRunning(Operation.SIDE_BY_SIDE):
            ui.sideBySideButton.text = _("End side by side")
        self._showComparison()

    @property
    def selected(self) -> Version | None:
        """The version the user has chosen in the table."""
        row = self.ui.versionsTableWidget.currentRow()
        return self._shownVersions[row] if 0 <= row < len(self._shownVersions) else None

    @property
    def other(self) -> int | None:
        """The version it is to be compared with."""
        number = self.ui.compareComboBox.currentData
        return int(number) if number else None

    def _showVersions(self, versions: Sequence[Version]) -> None:
        table = self.ui.versionsTableWidget
        chosen = self.selected.number if self.selected else None
        self._shownVersions = versions
        table.setRowCount(len(versions))
        for row, version in enumerate(versions):
            texts = (
                _("{n} (active)").format(n=version.number) if version.active else str(version.number),
                wording.stage(version.stage or version.method),
                wording.expected(version.expected),
                str(len(version.cases) or "–"),
            )
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(wording.versionDetails(version))
                table.setItem(row, column, item)
        fit(table, len(versions), MOST_ROWS)
        numbers = [version.number for version in versions]
        if numbers:
            table.selectRow(numbers.index(chosen) if chosen in numbers else 0)
        others = numbers if len(numbers) > 1 else []  # one alone has nothing to be compared with
        fill(self.ui.compareComboBox, [str(number) for number in others], wording.version)
        self.ui.compareComboBox.enabled = bool(others)
        if len(numbers) > 1 and self.ui.compareComboBox.currentIndex == 0:
            self.ui.compareComboBox.setCurrentIndex(1)
        self.showOffers()

    def _showComparison(self) -> None:
        table, comparison = self.ui.comparisonTableWidget, self.logic.models.comparison
        table.visible = comparison is not None
        if comparison is None or comparison is self._shownComparison:
            return
        self._shownComparison = comparison
        titles = [wording.version(str(number)) for number in (comparison.one, comparison.other)]
        table.setHorizontalHeaderLabels([_("Case"), *titles])
        table.setRowCount(len(comparison.cases))
        fit(table, len(comparison.cases), MOST_ROWS)
        for row, (case, scores) in enumerate(comparison.cases.items()):
            mark = " *" if case in comparison.learnedFrom else ""
            texts = [case + mark, *("–" if score is None else f"{score:.3f}" for score in scores)]
            for column, text in enumerate(texts):
                table.setItem(row, column, qt.QTableWidgetItem(text))

    def _onSelection(self) -> None:
        self.refresh()

    def _mayActivate(self) -> bool:
        return self.selected is not None and not self.selected.active

    def _mayCompare(self) -> bool:
        return self.selected is not None and self.other not in (None, self.selected.number)

    def _activate(self) -> None:
        self.logic.models.activate(self.selected.number)

    def _rollBack(self, _checked: bool = False) -> None:
        with self.session.toldAt(Operation.VERSIONS):
            self.logic.models.rollBack()

    def _maySeeSideBySide(self) -> bool:
        return side_by_side.isShown() or (self._mayCompare() and self.panel.isKnown)

    def _sideBySide(self) -> None:
        if side_by_side.isShown():
            side_by_side.end()
            self.session.say(Operation.SIDE_BY_SIDE, _("Back to one view."))
        else:
            self.logic.sideBySide(self.panel.volume, self.selected.number, self.other)

    def _compare(self) -> None:
        self.logic.models.compare(self.selected.number, self.other)


def _prepare(table: Any, headers: Sequence[str]) -> None:
    table.setColumnCount(len(headers))
    table.setHorizontalHeaderLabels(list(headers))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 6)
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setStretchLastSection(True)
    table.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
