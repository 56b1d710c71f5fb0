"""The part of Segment that works by clicks."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from .. import segments
from ..markups import BOX, INSIDE, OUTSIDE, REGION, PromptMarkups
from ..operations import Operation
from ..prompt_steps import INTERACTIVE, PromptSteps, Target
from ..prompts import Prompts
from ..translation import tr as _
from .labels import openSegmentEditor
from .section import Section

SETTLE_MS = 250  # a markup that has not moved for so long is where the user wants it


class PromptsSection(Section):
    """Clicks, box, region and scribbles; the answer comes after each, if the user wants it so."""

    def setup(self) -> None:
        ui = self.ui
        self._steps = PromptSteps(self.session)
        self._markups = PromptMarkups(self._onMarkups, self._showTools)
        self._sent: Prompts | None = None
        self._volume: Any = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._onSettled)
        for key, button in (("I", ui.includeButton), ("O", ui.excludeButton), ("U", ui.undoButton)):
            self.shortcut(key, button)
        self._tools = {
            INSIDE: ui.includeButton,
            OUTSIDE: ui.excludeButton,
            BOX: ui.boxButton,
            REGION: ui.regionButton,
        }
        for kind, button in self._tools.items():
            button.clicked.connect(lambda *_checked, kind=kind: self._onTool(kind))
        self.offer(Operation.PROMPTS, ui.updateButton, self._update, self._isReady)
        self.tell(ui.promptsStatusLabel, Operation.PROMPTS)
        ui.undoButton.clicked.connect(lambda *_checked: self._markups.undo())
        ui.clearButton.clicked.connect(lambda *_checked: self.clear())
        ui.scribbleButton.clicked.connect(lambda *_checked: self._onScribble())
        ui.structureComboBox.editTextChanged.connect(lambda *_text: self.clear())

    def show(self) -> None:
        ui, info = self.ui, self.session.info
        if self.panel.volume is not self._volume:  # clicks belong to a volume
            self._volume = self.panel.volume
            self.clear()
        self._offerStructures(info.labels if info else ())
        offered = info is None or INTERACTIVE in info.models
        usable = info is not None and offered and self.panel.isKnown and bool(self._structure)
        for button in (*self._tools.values(), ui.undoButton, ui.clearButton, ui.scribbleButton):
            button.enabled = usable
        self._showTools()
        if not offered:
            self.hint(ui.promptsStatusLabel, _("This server does not segment by clicks."))
        elif info and self.panel.isKnown and not self._structure:
            self.hint(ui.promptsStatusLabel, _("Name the structure, then click into it in a slice."))

    def _showTools(self) -> None:
        placing = self._markups.placing
        for kind, button in self._tools.items():
            button.checked = kind == placing

    def clear(self) -> None:
        """Remove all prompts; what they gave stays."""
        self._markups.clear()
        self._steps.end()
        self._sent = None
        self._timer.stop()
        self.refresh()

    def exit(self) -> None:
        if self._markups.placing:
            self._markups.stopPlacing()

    def onSceneClosed(self) -> None:
        self._markups.forget()
        self.clear()

    def cleanup(self) -> None:
        self._timer.stop()
        self._markups.cleanup()

    @property
    def _structure(self) -> str:
        return " ".join(self.ui.structureComboBox.currentText.split())

    def _offerStructures(self, names: Any) -> None:
        box = self.ui.structureComboBox
        if [box.itemText(index) for index in range(box.count)] == list(names):
            return
        text = box.currentText
        box.blockSignals(True)
        box.clear()
        box.addItems(list(names))
        box.setEditText(text or (names[0] if names else ""))
        box.blockSignals(False)

    def _isReady(self) -> bool:
        info = self.session.info
        return info is not None and INTERACTIVE in info.models and self.panel.isKnown and bool(self._structure)

    def _onTool(self, kind: str) -> None:
        with self.session.toldAt(Operation.PROMPTS):
            if self._markups.placing == kind:
                self._markups.stopPlacing()
            else:
                self._begin()
                self._markups.place(kind)
        self.refresh()

    def _begin(self) -> None:
        """Prompts are for a structure of a segmentation, which is made if there is none."""
        node = self.panel.parameters
        name = self._structure
        if node.segmentation is None:
            node.segmentation = self.logic.segmentationToEdit(None, node.inputVolume, node.structures or name)
        segments.addMissingSegments(node.segmentation, [name])
        self._steps.begin(Target(node.inputVolume, node.segmentation, name))

    def _onMarkups(self, settled: bool) -> None:
        if settled:
            self._timer.stop()
            self._onSettled()
        else:
            self._timer.start()

    def _onSettled(self) -> None:
        if self.ui.liveCheckBox.checked and self.session.info is not None and self.panel.volume is not None:
            with slicer.util.tryWithErrorDisplay(_("Unexpected error.")), self.session.toldAt(Operation.PROMPTS):
                self._send()
        self.refresh()

    def _update(self) -> None:
        self._begin()
        self._sent = None
        self._send()

    def _send(self) -> None:
        prompts = self._markups.read(self.panel.volume)
        if prompts != self._sent:
            self._begin()
            self._sent = prompts
            self._steps.update(prompts)

    def _onScribble(self) -> None:
        with self.session.toldAt(Operation.PROMPTS):
            self._begin()
            node = self.panel.parameters
            segment = segments.addScribbleSegments(node.segmentation, self._structure)
            openSegmentEditor(node.segmentation, node.inputVolume, segment)
            text = _("Paint in '{structure} inside' and '{structure} outside', come back and press Update.")
            self.session.say(Operation.PROMPTS, text.format(structure=self._structure))
