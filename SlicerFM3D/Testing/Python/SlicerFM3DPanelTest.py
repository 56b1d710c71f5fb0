"""The panel inside Slicer, with its genuine widgets: what tests outside can only do with stand-ins.

Run by ctest in a build of the extension. The full set, ``tests/slicer`` in the repository, runs inside Slicer too.
"""

import unittest

import slicer


class SlicerFM3DPanelTest(unittest.TestCase):
    """Opens the module once for each test."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)
        self.widget = slicer.util.getNewModuleWidget("SlicerFM3D")
        self.ui = self.widget.ui

    def tearDown(self):
        self.widget.cleanup()
        slicer.mrmlScene.Clear(0)

    def test_freshPanelOffersToConnectAndNothingElse(self):
        buttons = [self.ui.connectButton, self.ui.nextButton, self.ui.uploadButton, self.ui.segmentButton]
        buttons += [self.ui.submitButton, self.ui.trainButton]
        self.assertEqual([button.enabled for button in buttons], [True] + 5 * [False])

    def test_parametersAndWidgetsAreBoundBothWays(self):
        parameters = self.widget.logic.getParameterNode()
        self.ui.structuresLineEdit.text = "liver, spleen"
        self.assertEqual(parameters.structures, "liver, spleen")
        parameters.seconds = 30
        self.assertEqual(self.ui.secondsSpinBox.value, 30)

    def test_volumeOfTheSceneCanBeChosen(self):
        import numpy as np

        volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5), np.int16), name="volume")
        self.ui.inputVolumeSelector.setCurrentNode(volume)
        self.assertEqual(self.widget.logic.getParameterNode().inputVolume.GetID(), volume.GetID())
        self.assertTrue(self.ui.editButton.enabled)


if __name__ == "__main__":
    unittest.main()
