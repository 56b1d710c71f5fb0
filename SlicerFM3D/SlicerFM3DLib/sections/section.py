"""What all sections of the panel have in common: buttons that start an operation and cancel it, lines that tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import qt
import slicer

from ..operations import Operation
from ..translation import tr as _

if TYPE_CHECKING:
    from ..panel import Panel

ERROR_STYLE = "color: #c62828"  # readable on Slicer's light and dark themes


@dataclass
class Offer:
    """A button that starts an operation.

    Attributes:
        text: on the button while nothing runs.
        start: called when it is pressed.
        isReady: whether everything it needs is there.
    """

    operation: Operation
    button: Any
    text: str
    start: Callable[[], None]
    isReady: Callable[[], bool]


class Section:
    """One section. Subclasses name their file (none: their widgets are in another's) and offer what buttons do.

    :param panel: what it is part of; the widgets of all sections are in ``panel.ui``.
    """

    uiFile = ""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.logic, self.session = panel.logic, panel.logic.session
        self.offers: list[Offer] = []
        self._statusLabels: list[tuple[Any, tuple[Operation, ...]]] = []
        self._shortcuts: list[Any] = []
        self.setup()

    def setup(self) -> None:
        """Connect the widgets."""

    def show(self) -> None:
        """Bring the widgets up to date, but for offers and what became of them; see :meth:`refresh`."""

    def onConnected(self) -> None:
        """A server has answered."""

    def onSceneClosed(self) -> None:
        """The user has closed the scene; no node is left."""

    def exit(self) -> None:
        """The user goes to another module."""

    def cleanup(self) -> None:
        """The panel goes."""

    # -- for subclasses

    def offer(
        self, operation: Operation, button: Any, start: Callable[[], None], isReady: Callable[[], bool] | None = None
    ) -> None:
        """Let ``button`` start an operation, and be its Cancel while it runs."""
        offer = Offer(operation, button, button.text, start, isReady or (lambda: True))
        self.offers.append(offer)
        button.clicked.connect(lambda *_checked: self._press(offer))

    def tell(self, label: Any, *operations: Operation) -> None:
        """Let ``label`` say what became of these operations, the newest first."""
        self._statusLabels.append((label, operations))

    def hint(self, label: Any, text: str) -> None:
        """Say why a button is grey, where nothing more important is said."""
        if not label.text:
            label.text = text

    def shortcut(self, key: str, button: Any) -> None:
        """Let a key press ``button``, and show it on the button."""
        button.text = f"{button.text} ({key})"
        shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow() or self.panel.widget)
        shortcut.activated.connect(lambda: button.click())
        shortcut.setEnabled(False)
        self._shortcuts.append(shortcut)

    # -- for the panel

    def enableShortcuts(self, enabled: bool) -> None:
        """Keys work while the user is in this module only."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(enabled)

    def removeShortcuts(self) -> None:
        """The keys belong to Slicer's window, which lives longer than the panel."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts.clear()

    def refresh(self) -> None:
        """Bring all of the section up to date."""
        self.showOffers()
        self.show()
        for label, _operations in self._statusLabels:
            label.visible = bool(label.text)

    def showOffers(self) -> None:
        """Bring buttons and lines up to date."""
        for offer in self.offers:
            if self.session.isRunning(offer.operation):
                offer.button.text = _("Cancel")
                offer.button.enabled = not self.session.isCancelling(offer.operation)
            else:
                offer.button.text = offer.text
                offer.button.enabled = self.session.mayStart(offer.operation) and offer.isReady()
        for label, operations in self._statusLabels:
            self._showNewest(label, operations)

    def _showNewest(self, label: Any, operations: Sequence[Operation]) -> None:
        newest = [message for operation, message in self.session.messages.items() if operation in operations]
        label.text = newest[-1].text if newest else ""
        label.styleSheet = ERROR_STYLE if newest and newest[-1].isError else ""

    def _press(self, offer: Offer) -> None:
        with slicer.util.tryWithErrorDisplay(_("Unexpected error.")):
            if self.session.isRunning(offer.operation):
                self.session.cancel(offer.operation)
            elif self.session.mayStart(offer.operation):
                with self.session.toldAt(offer.operation):
                    offer.start()


def fill(box: Any, keys: Sequence[str], word: Callable[[str], str]) -> None:
    """Offer these keys in a combo box, and keep the user's choice if it is still among them."""
    if [box.itemData(index) for index in range(box.count)] == list(keys):
        return
    chosen = box.currentData
    box.blockSignals(True)  # what the user has not done shall start nothing
    box.clear()
    for key in keys:
        box.addItem(word(key), key)
    box.setCurrentIndex(keys.index(chosen) if chosen in keys else 0)
    box.blockSignals(False)


def fit(view: Any, rows: int, most: int) -> None:
    """Make a list or a table as high as its rows, but not higher than ``most`` of them."""
    header = view.horizontalHeader().height if hasattr(view, "horizontalHeader") else 0
    row = view.rowHeight(0) if hasattr(view, "rowHeight") else view.sizeHintForRow(0)
    view.setFixedHeight(header + row * max(1, min(rows, most)) + 6)


def setting(name: str, default: str) -> str:
    """What was kept from the last time."""
    return str(slicer.util.settingsValue(f"SlicerFM3D/{name}", default))


def keep(name: str, value: str) -> None:
    """Keep a choice for the next time. Never a token."""
    qt.QSettings().setValue(f"SlicerFM3D/{name}", value)
