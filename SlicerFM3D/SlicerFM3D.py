"""FM3D in 3D Slicer: fetch a volume, segment it, correct and submit the label, press Train, see what was learned.

The learning happens on a MONAI Label server; this module shows and sends. Module, parameters, widget and logic are
here, everything else in ``SlicerFM3DLib``.
"""

import tempfile
from pathlib import Path
from typing import Annotated

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
from SlicerFM3DLib import scene
from SlicerFM3DLib.background import Job
from SlicerFM3DLib.operations import Operation
from SlicerFM3DLib.panel import Panel
from SlicerFM3DLib.sample_data import registerSampleData
from SlicerFM3DLib.session import Session
from SlicerFM3DLib.workflow import Workflow

LONGEST = 36000  # seconds of training; 0: as the preset or the server say


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
        slicer.app.startupCompleted.connect(registerSampleData)  # the module Sample Data is there only then


@parameterNodeWrapper
class SlicerFM3DParameterNode:
    """What the panel remembers in the scene."""

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    structures: str = ""
    seconds: Annotated[int, WithinRange(0, LONGEST)] = 0
    showUncertainty: bool = False
    live: bool = True


class SlicerFM3DWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel's life in Slicer, and its binding to the parameters in the scene."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self.ui = None
        self._parameterNode = None
        self._guiTag = None
        self._volume = None

    def setup(self) -> None:
        """Called once, when the user opens the module."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SlicerFM3DLogic()
        self.panel = Panel(self.logic, self._parameters, self.resourcePath)
        self.layout.addWidget(self.panel.widget)
        self.ui = self.panel.ui
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the module goes: nothing may outlive it."""
        self.panel.cleanup()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.session.close()

    def enter(self) -> None:
        """Called each time the user opens the module."""
        self.initializeParameterNode()
        self.panel.enter()

    def exit(self) -> None:
        """Called each time the user opens another module; what runs goes on."""
        self.panel.exit()
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
            self.panel.show()

    def _onSceneStartClose(self, caller, event) -> None:
        self.setParameterNode(None)

    def _onSceneEndClose(self, caller, event) -> None:
        self.panel.onSceneClosed()
        self.initializeParameterNode()

    def _onParameters(self, caller=None, event=None) -> None:
        """A segmentation belongs to a volume: choosing another volume brings its own along."""
        node = self._parameterNode
        if node.inputVolume is not self._volume:
            self._volume = node.inputVolume
            if scene.volumeOf(node.segmentation) is not self._volume:
                node.segmentation = scene.segmentationOf(self._volume)
        self.panel.show()

    def _parameters(self):
        """The parameters, also while the user is in another module and the panel is not bound to them."""
        return self._parameterNode or self.logic.getParameterNode()


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
