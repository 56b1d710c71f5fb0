"""The panel inside Slicer, with its genuine widgets: what tests outside can only do with stand-ins.

Run by ctest in a build of the extension. The full set, ``tests/slicer`` in the repository, runs inside Slicer too.
"""

import unittest

import qt
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

    def addVolume(self):
        import numpy as np

        volume = slicer.util.addVolumeFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5), name="volume")
        self.ui.inputVolumeSelector.setCurrentNode(volume)
        return volume

    def test_freshPanelOffersToConnectAndNothingElse(self):
        offers = [offer for section in self.widget.panel.sections for offer in section.offers]
        self.assertGreater(len(offers), 10)
        self.assertEqual([o.button.name for o in offers if o.button.enabled], ["connectButton"])

    def test_parametersAndWidgetsAreBoundBothWays(self):
        parameters = self.widget.logic.getParameterNode()
        self.ui.structuresLineEdit.text = "liver, spleen"
        self.assertEqual(parameters.structures, "liver, spleen")
        self.assertEqual(self.ui.valuesLabel.text, "Sent as: 1 = liver, 2 = spleen")
        parameters.seconds = 30
        self.assertEqual(self.ui.secondsSpinBox.value, 30)
        self.ui.liveCheckBox.checked = False
        self.assertFalse(parameters.live)

    def test_volumeOfTheSceneCanBeChosen(self):
        volume = self.addVolume()
        self.assertEqual(self.widget.logic.getParameterNode().inputVolume.GetID(), volume.GetID())
        self.assertTrue(self.ui.editButton.enabled)

    def test_promptsArePlacedReadAndTakenBack(self):
        from SlicerFM3DLib.markups import BOX, INSIDE, PromptMarkups

        volume, changes = self.addVolume(), []
        markups = PromptMarkups(changes.append, lambda: None)
        markups.place(INSIDE)
        self.assertEqual(markups.placing, INSIDE)
        slicer.util.getNode("Inside").AddControlPointWorld(1, 2, 3)
        self.assertIn(True, changes)
        markups.place(BOX)
        markups.stopPlacing()
        box = slicer.util.getNode("Box")
        box.SetCenterWorld(0, 0, 0)
        box.SetSizeWorld(2, 4, 6)
        prompts = markups.read(volume)
        self.assertEqual(prompts.points, (((1.0, 2.0, 3.0), True),))
        self.assertEqual((prompts.box.low, prompts.box.high), ((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0)))
        markups.cleanup()
        self.assertTrue(markups.read(volume).isEmpty)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode"), 0)

    def test_trainingCurveIsPainted(self):
        from SlicerFM3DLib import curve
        from SlicerFM3DLib.train_status import EarlyVersion

        pixmap = curve.paint(
            [(0, 1.0), (10, 0.5)], [EarlyVersion(1, "linear_probe", 5.0)], 300, 100, qt.QColor("black")
        )
        self.assertFalse(pixmap.isNull())
        image = pixmap.toImage()
        colors = {image.pixelColor(x, y).name() for x in range(300) for y in range(100)}
        self.assertTrue({curve.LINE_COLOR, curve.MARK_COLOR} <= colors)

    def test_twoSegmentationsSideBySide(self):
        from SlicerFM3DLib import scene, side_by_side

        volume = self.addVolume()
        one, other = (scene.createSegmentation(volume, ["a"], name) for name in ("one", "other"))
        side_by_side.show(volume, one, other)
        self.assertTrue(side_by_side.isShown())
        self.assertEqual(list(one.GetDisplayNode().GetViewNodeIDs()), [side_by_side.LEFT])
        side_by_side.end()
        self.assertFalse(side_by_side.isShown())
        self.assertEqual(len(one.GetDisplayNode().GetViewNodeIDs()), 0)


if __name__ == "__main__":
    unittest.main()
