"""The panel: its sections in the order of work, bound to one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from . import scene
from .sections.case import CaseSection
from .sections.insight import InsightSection
from .sections.labels import LabelsSection
from .sections.models import ModelsSection
from .sections.prompts import PromptsSection
from .sections.segment import SegmentSection
from .sections.server import ServerSection
from .sections.train import TrainSection
from .translation import tr as _

SECTIONS = (
    ServerSection,
    CaseSection,
    SegmentSection,
    PromptsSection,
    LabelsSection,
    TrainSection,
    ModelsSection,
    InsightSection,
)


class Panel:
    """All sections, and what they share.

    :param logic: the module's, with its session.
    :param parameters: gives the scene's parameter node, also while the panel is not bound to it.
    :param resourcePath: gives the path of a file in ``Resources``.

    :ivar widget: to be put into the module's layout.
    :ivar ui: the widgets of all sections by name.
    """

    def __init__(self, logic: Any, parameters: Callable[[], Any], resourcePath: Callable[[str], str]) -> None:
        self.logic, self._parameters = logic, parameters
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        for section in (each for each in SECTIONS if each.uiFile):
            layout.addWidget(slicer.util.loadUI(resourcePath(f"UI/{section.uiFile}.ui")))
        disclaimer = qt.QLabel(_("Research use only. Not a medical device."))
        disclaimer.setAlignment(qt.Qt.AlignCenter)
        layout.addWidget(disclaimer)
        layout.addStretch(1)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        for selector in (self.ui.inputVolumeSelector, self.ui.segmentationSelector):
            selector.setMRMLScene(slicer.mrmlScene)
        self.sections = [section(self) for section in SECTIONS]
        logic.session.changed.connect(self.show)
        logic.session.connected.connect(self._onConnected)

    @property
    def parameters(self) -> Any:
        """The scene's parameters."""
        return self._parameters()

    @property
    def volume(self) -> Any:
        """The selected volume, or None."""
        return self.parameters.inputVolume

    @property
    def segmentation(self) -> Any:
        """The selected segmentation, or None."""
        return self.parameters.segmentation

    @property
    def isKnown(self) -> bool:
        """Whether the server has the selected volume."""
        return bool(scene.imageId(self.volume, self.logic.session.address))

    def select(self, volume: Any, segmentation: Any = None) -> None:
        """Work on this volume, and on this segmentation if there is one."""
        self.parameters.inputVolume = volume
        if segmentation:
            self.parameters.segmentation = segmentation

    def show(self) -> None:
        """Bring every widget up to date."""
        for section in self.sections:
            section.refresh()

    def enter(self) -> None:
        """The user comes to this module: keys work from now on."""
        for section in self.sections:
            section.enableShortcuts(True)

    def exit(self) -> None:
        """The user goes to another module."""
        for section in self.sections:
            section.enableShortcuts(False)
            section.exit()

    def onSceneClosed(self) -> None:
        """No node is left."""
        for section in self.sections:
            section.onSceneClosed()

    def cleanup(self) -> None:
        """Hear nothing of the session any more."""
        self.logic.session.changed.disconnectAll()
        self.logic.session.connected.disconnectAll()
        for section in self.sections:
            section.removeShortcuts()
            section.cleanup()

    def _onConnected(self) -> None:
        for section in self.sections:
            section.onConnected()
