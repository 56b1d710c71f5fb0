"""FM3D in 3D Slicer: fetch a volume, segment it, correct and submit the label, press Train, see what was learned.

The learning happens on a MONAI Label server; this module shows and sends. Module, parameters, widget and logic are
here, everything else in ``SlicerFM3DLib``.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SlicerFM3DLib import panel, scene, wording
from SlicerFM3DLib.background import Job
from SlicerFM3DLib.operations import Operation
from SlicerFM3DLib.session import Session
from SlicerFM3DLib.workflow import Workflow

ADDRESS_SETTING = "SlicerFM3D/ServerAddress"
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
SHORTEST, LONGEST = 5, 36000  # seconds of training


class SlicerFM3D(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("FM3D")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["FM3D contributors"]
        self.parent.helpText = _(
            "Teach a 3D foundation model your structures: label a few volumes, press Train, let it segment the others. "
            "The model runs on an FM3D server (MONAI Label); volumes are sent there only when you say so. "
            "Research use only, not a medical device."
        )
        self.parent.acknowledgementText = _("Built on MONAI, MONAI Label and PEFT.")


@parameterNodeWrapper
class SlicerFM3DParameterNode:
    """What the panel remembers in the scene."""

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    structures: str = ""
    seconds: Annotated[int, WithinRange(SHORTEST, LONGEST)] = 90


class SlicerFM3DWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: starts what the buttons say, and shows the session's state."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.ui = None
        self._parameterNode = None
        self._guiTag = None
        self._volume = None

    def setup(self) -> None:
        """Called once, when the user opens the module."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/SlicerFM3D.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = SlicerFM3DLogic()
        self._panel = panel.Panel(self.ui)
        self.logic.session.changed.connect(self._show)
        self.logic.session.connected.connect(self._onConnected)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._onSceneEndClose)
        for operation, button in self._panel.buttons.items():
            button.clicked.connect(self._pressing(operation))
        self.ui.addressLineEdit.returnPressed.connect(self._pressing(Operation.CONNECT))
        self.ui.editButton.clicked.connect(self._onEdit)
        self.ui.addressLineEdit.text = slicer.util.settingsValue(ADDRESS_SETTING, DEFAULT_ADDRESS)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the module goes: nothing may outlive it."""
        self.logic.session.changed.disconnectAll()
        self.logic.session.disconnect()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens the module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens another module; what runs goes on."""
        self.setParameterNode(None)

    def initializeParameterNode(self) -> None:
        """Bind the panel to the scene's parameters; the first volume is chosen if none is."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first:
                self._parameterNode.inputVolume = first

    def setParameterNode(self, node) -> None:
        """Bind the panel to ``node``, or to nothing."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._parameterNode = node
        if node:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._show()

    def _onSceneStartClose(self, caller, event) -> None:
        self.setParameterNode(None)

    def _onSceneEndClose(self, caller, event) -> None:
        self.initializeParameterNode()

    def _onParameters(self, caller=None, event=None) -> None:
        """A segmentation belongs to a volume: choosing another volume brings its own along."""
        node = self._parameterNode
        if node.inputVolume is not self._volume:
            self._volume = node.inputVolume
            if scene.volumeOf(node.segmentation) is not self._volume:
                node.segmentation = scene.segmentationOf(self._volume)
        self._show()

    def _onConnected(self) -> None:
        session = self.logic.session
        qt.QSettings().setValue(ADDRESS_SETTING, session.address)
        if session.info.labels:
            self._parameters().structures = ", ".join(session.info.labels)
        if session.info.seconds:
            self._parameters().seconds = max(SHORTEST, min(LONGEST, session.info.seconds))

    def _pressing(self, operation):
        """The slot of an operation's button, which is Cancel while it runs."""
        starts = {
            Operation.CONNECT: lambda: self.logic.session.connectTo(self.ui.addressLineEdit.text),
            Operation.NEXT: lambda: self.logic.nextVolume(self._select),
            Operation.UPLOAD: self._upload,
            Operation.SEGMENT: lambda: self.logic.segment(
                self._parameters().inputVolume, self._panel.version, self._select
            ),
            Operation.SUBMIT: lambda: self.logic.submit(
                self._parameters().segmentation, self._parameters().inputVolume, self._parameters().structures
            ),
            Operation.TRAIN: lambda: self.logic.session.train(
                {**self._panel.trainingChoices, "seconds": self._parameters().seconds}
            ),
        }

        def press(*_checked) -> None:
            session = self.logic.session
            with slicer.util.tryWithErrorDisplay(_("Unexpected error.")):
                if session.isRunning(operation):
                    session.cancel(operation)
                elif session.mayStart(operation):
                    with session.toldAt(operation):
                        starts[operation]()

        return press

    def _upload(self) -> None:
        volume = self._parameters().inputVolume
        session = self.logic.session
        question = wording.consent(volume.GetName(), session.address, session.isLoopback)
        key = f"SlicerFM3D/UploadTo_{session.address.replace('/', '_')}"  # another server is asked for anew
        if slicer.util.confirmOkCancelDisplay(question, dontShowAgainSettingsKey=key):
            self.logic.upload(volume)

    def _onEdit(self, _checked=False) -> None:
        session, node = self.logic.session, self._parameters()
        with slicer.util.tryWithErrorDisplay(_("Unexpected error.")), session.toldAt(Operation.SUBMIT):
            node.segmentation = self.logic.segmentationToEdit(node.segmentation, node.inputVolume, node.structures)
            panel.openSegmentEditor(node.segmentation, node.inputVolume)

    def _select(self, volume, segmentation=None) -> None:
        self._parameters().inputVolume = volume
        if segmentation:
            self._parameters().segmentation = segmentation

    def _parameters(self):
        """The parameters, also while the user is in another module and the panel is not bound to them."""
        return self._parameterNode or self.logic.getParameterNode()

    def _show(self) -> None:
        if self._parameterNode:
            node, session = self._parameterNode, self.logic.session
            isKnown = bool(scene.imageId(node.inputVolume, session.address))
            self._panel.show(session, node.inputVolume, node.segmentation, isKnown)


class SlicerFM3DLogic(ScriptedLoadableModuleLogic, Workflow):
    """The steps of :class:`~SlicerFM3DLib.workflow.Workflow`, and the parameters in the scene."""

    def getParameterNode(self) -> SlicerFM3DParameterNode:
        """The scene's parameters of this module."""
        return SlicerFM3DParameterNode(super().getParameterNode())


class SlicerFM3DTest(ScriptedLoadableModuleTest):
    """What Slicer's "Reload and Test" runs: scene and files, and the words for a server that is not there."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_labelsComeBackVoxelExact()
        self.setUp()
        self.test_missingServerIsToldInWords()

    def test_labelsComeBackVoxelExact(self):
        import numpy as np

        array = np.zeros((6, 8, 10), np.uint8)
        array[1:3, 2:5, 3:7], array[3:5, 2:5, 3:7] = 1, 2
        volume = slicer.util.addVolumeFromArray(array * 100, name="volume")
        volume.SetIJKToRASDirections(0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
        volume.SetSpacing(0.7, 0.7, 3)
        segmentation = scene.createSegmentation(volume, ["b", "a"], "drawn")
        for value, name in ((1, "a"), (2, "b")):
            segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
            mask = (array == value).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
        with tempfile.TemporaryDirectory() as folder:
            label = scene.writeLabel(segmentation, volume, ["a", "b"], Path(folder) / "label.nrrd")
            back = scene.readSegmentation(label.path, volume, {"a": 1, "b": 2}, "back")
        for value, name in ((1, "a"), (2, "b")):
            segment = back.GetSegmentation().GetSegmentIdBySegmentName(name)
            voxels = slicer.util.arrayFromSegmentBinaryLabelmap(back, segment, volume)
            np.testing.assert_array_equal(voxels, array == value)
        self.delayDisplay("Labels come back voxel by voxel")

    def test_missingServerIsToldInWords(self):
        import time

        session = Session(Job)
        session.connectTo("http://127.0.0.1:9")  # the discard port: nothing listens there
        deadline = time.monotonic() + 10
        while session.isRunning(Operation.CONNECT) and time.monotonic() < deadline:
            slicer.app.processEvents()
        message = session.messages[Operation.CONNECT]
        self.assertTrue(message.isError)
        self.assertIn("No server answers", message.text)
        self.delayDisplay("A missing server is told in words")
