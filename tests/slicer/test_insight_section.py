"""Insight: overlays come, lie where they belong, and go."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
from panel_clicks import click, finish, on_grid_of, uploaded
from SlicerFM3DLib import overlays


def features(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / 255


@pytest.fixture
def composite():
    """A slice view's layers, as each view of Slicer has them."""
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")


@pytest.fixture
def insight(connected, peer, composite):
    def answer(imageId, params, label):
        if params["kind"] == "pca":
            return colours(peer.images[imageId])
        return on_grid_of(peer.images[imageId], features)

    peer.answers["insight"] = answer
    finish(connected, connected.ui.connectButton)
    connected.volume = uploaded(connected, peer)
    connected.ui.insightCollapsibleButton.collapsed = False
    return connected


def colours(image: tuple[str, bytes]) -> tuple[str, bytes]:
    """An RGB NIfTI on the image's grid."""
    import SimpleITK as sitk

    def compute(array):
        return np.stack([array, 255 - array, array // 2], -1).astype(np.uint8)

    sitk_from_array, sitk.GetImageFromArray = sitk.GetImageFromArray, lambda a: sitk_from_array(a, isVector=True)
    try:
        return on_grid_of(image, compute)
    finally:
        sitk.GetImageFromArray = sitk_from_array


def test_an_overlay_lies_over_the_volume_and_goes_again(insight, composite, peer):
    ui = insight.ui
    ui.insightComboBox.setCurrentIndex(ui.insightComboBox.findData("attention"))
    assert "where the network looks" in ui.insightNoteLabel.text and not ui.hideInsightButton.enabled
    finish(insight, ui.insightButton)
    [node] = overlays.shown()
    np.testing.assert_allclose(
        slicer.util.arrayFromVolume(node), features(slicer.util.arrayFromVolume(insight.volume)), atol=1e-6
    )
    assert composite.GetForegroundVolumeID() == node.GetID() and composite.GetForegroundOpacity() == 0.5
    assert composite.GetBackgroundVolumeID() == insight.volume.GetID()
    assert ui.inputVolumeSelector.currentNode() is insight.volume, "the overlay is not taken for the case"
    ui.opacitySlider.value = 80
    assert composite.GetForegroundOpacity() == 0.8
    click(ui.hideInsightButton)
    assert not overlays.shown() and not ui.hideInsightButton.enabled
    [request] = peer.sent("POST", "/infer/insight")
    assert json.loads(request.fields["params"]) == {"kind": "attention", "version": "active"}


def test_features_come_as_colours(insight, composite):
    finish(insight, insight.ui.insightButton)
    [node] = overlays.shown()
    assert node.IsA("vtkMRMLVectorVolumeNode"), insight.ui.insightStatusLabel.text
    array = slicer.util.arrayFromVolume(insight.volume)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node)[..., 1], 255 - array)


def test_a_second_overlay_takes_the_place_of_the_first(insight, composite):
    finish(insight, insight.ui.insightButton)
    insight.ui.insightComboBox.setCurrentIndex(2)
    finish(insight, insight.ui.insightButton)
    [node] = overlays.shown()
    assert node.GetAttribute(overlays.KIND_ATTRIBUTE) == "uncertainty"


def test_segmenting_shows_where_the_model_is_unsure_if_asked(insight, composite, peer):
    ui = insight.ui
    peer.answerParams = {"expected_dice": {"value": 0.81, "low": 0.7, "high": 0.9, "reasons": ["Darker than usual."]}}
    click(ui.uncertaintyCheckBox)
    finish(insight, ui.segmentButton)
    [node] = overlays.shown()
    assert node.GetAttribute(overlays.KIND_ATTRIBUTE) == "uncertainty"
    assert "Expected Dice of this volume: 0.81 (0.70 to 0.90). Darker than usual." in ui.segmentStatusLabel.text
    click(ui.uncertaintyCheckBox)
    assert not overlays.shown()


def test_an_overlay_of_another_grid_is_refused(insight, peer):
    other = uploaded(insight, peer, "other", seed=1)
    other.SetOrigin(0, 0, 0)
    finish(insight, insight.ui.insightButton)
    assert insight.ui.insightStatusLabel.text == "The overlay does not lie on the grid of 'other'."
    assert not overlays.shown() and len(slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode")) == 0


def test_a_server_without_insight_says_so(connected, peer):
    connected.ui.insightCollapsibleButton.collapsed = False
    assert connected.ui.insightStatusLabel.text == "This server does not show what its network sees."
