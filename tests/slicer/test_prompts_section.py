"""Segmenting by clicks: what is placed in the views goes out, comes back into the segment, and is taken back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import qt
import slicer
from monailabel_peer import Reply, jsonReply
from panel_clicks import click, finish, on_grid_of, uploaded, voxels
from PySide6.QtTest import QTest
from slicer_env import process_events_until
from SlicerFM3DLib import segments
from SlicerFM3DLib.operations import Operation


@pytest.fixture
def ready(connected, peer):
    """A volume on a server whose answer has one grey value more for each click."""

    def answer(imageId, params, label):
        level = 200 - 20 * len(params["points"])
        return on_grid_of(peer.images[imageId], lambda array: (array > level).astype(np.uint8))

    peer.answers["interactive"] = answer
    peer.answerParams = {"seconds": 0.4}
    finish(connected, connected.ui.connectButton)
    connected.volume = uploaded(connected, peer)
    assert connected.ui.includeButton.enabled
    return connected


def place(kind: str, *position: float) -> None:
    """A click in a view: what Slicer's placement does with the node that is to be placed."""
    logic = slicer.app.applicationLogic()
    assert logic.GetInteractionNode().GetCurrentInteractionMode() == logic.GetInteractionNode().Place
    node = slicer.mrmlScene.GetNodeByID(logic.GetSelectionNode().GetActivePlaceNodeID())
    assert node.GetName() == kind
    node.AddControlPointWorld(*position)


def answered(widget) -> None:
    assert process_events_until(lambda: not widget.logic.session.isRunning(Operation.PROMPTS))


def sent(peer) -> list[dict]:
    return [json.loads(request.fields["params"]) for request in peer.sent("POST", "/infer/interactive")]


def drawn(widget, name: str = "anterior"):
    return segments.segmentVoxels(widget._parameters().segmentation, widget.volume, name)


def test_each_click_gives_a_better_segment_at_once(ready, peer):
    ui, array = ready.ui, slicer.util.arrayFromVolume(ready.volume)
    assert ui.structureComboBox.currentText == "anterior"
    click(ui.includeButton)
    assert ui.includeButton.checked and not ui.excludeButton.checked
    place("Inside", -40, 12, 3)
    answered(ready)
    np.testing.assert_array_equal(drawn(ready), array > 180)
    assert ui.promptsStatusLabel.text == "'anterior' segmented in 0.4 s."
    click(ui.excludeButton)
    assert ui.excludeButton.checked and not ui.includeButton.checked
    place("Outside", -38.5, 13, 4)
    answered(ready)
    np.testing.assert_array_equal(drawn(ready), array > 160)
    first, second = sent(peer)
    assert first == {
        "structure": "anterior",
        "points": [{"position": [-40, 12, 3], "positive": True}],
        "box": None,
        "roi": None,
    }
    assert second["points"][1] == {"position": [-38.5, 13, 4], "positive": False}


def test_undo_takes_the_last_click_back_and_in_the_end_what_was_drawn_before_is_there(ready, peer):
    ui, array = ready.ui, slicer.util.arrayFromVolume(ready.volume)
    click(ui.editButton)
    mine = array > 250
    segments.setSegment(ready._parameters().segmentation, ready.volume, "anterior", mine)
    click(ui.includeButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    place("Inside", -41, 12, 3)
    answered(ready)
    np.testing.assert_array_equal(drawn(ready), array > 160)
    click(ui.undoButton)
    answered(ready)
    np.testing.assert_array_equal(drawn(ready), array > 180)
    assert [len(params["points"]) for params in sent(peer)] == [1, 2, 1]
    click(ui.undoButton)
    np.testing.assert_array_equal(drawn(ready), mine)
    assert len(sent(peer)) == 3, "nothing to ask"


def test_a_drawn_structure_is_corrected_and_work_by_hand_between_clicks_too(ready, peer, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    array = slicer.util.arrayFromVolume(ready.volume)
    given = []
    answer = peer.answers["interactive"]
    peer.answers["interactive"] = lambda i, params, label: given.append(label) or answer(i, params, label)

    def last_given() -> np.ndarray:
        (tmp_path / "given.nrrd").write_bytes(given[-1])
        return sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "given.nrrd")))

    click(ready.ui.editButton)
    segments.setSegment(ready._parameters().segmentation, ready.volume, "anterior", array > 250)
    click(ready.ui.includeButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    assert sent(peer)[-1]["given"] == "segmentation"
    np.testing.assert_array_equal(last_given(), array > 250)
    by_hand = array > 240
    segments.setSegment(ready._parameters().segmentation, ready.volume, "anterior", by_hand)
    place("Inside", -41, 12, 3)
    answered(ready)
    np.testing.assert_array_equal(last_given(), by_hand)


def test_clicks_while_the_server_computes_are_sent_together_afterwards(ready, peer):
    import threading

    free = threading.Event()
    answer = peer.answers["interactive"]
    peer.answers["interactive"] = lambda i, params, label: (free.wait(5), answer(i, params, label))[1]
    click(ready.ui.includeButton)
    for x in (-40, -41, -42):
        place("Inside", x, 12, 3)
    free.set()
    assert process_events_until(lambda: len(sent(peer)) == 2)
    answered(ready)
    assert [len(params["points"]) for params in sent(peer)] == [1, 3]


def test_a_box_and_a_region_go_out_as_corners(ready, peer):
    ui = ready.ui
    for button, name in ((ui.boxButton, "Box"), (ui.regionButton, "Region")):
        click(button)
        node = slicer.util.getNode(name)
        node.SetCenterWorld(-38, 14, 10)
        node.SetSizeWorld(4, 6, 8)
    assert process_events_until(lambda: sent(peer))
    assert process_events_until(lambda: sent(peer)[-1]["roi"])
    answered(ready)
    corners = {"low": [-40, 11, 6], "high": [-36, 17, 14]}
    for box in (sent(peer)[-1]["box"], sent(peer)[-1]["roi"]):
        assert set(box) == set(corners) and all(box[end] == pytest.approx(corners[end]) for end in corners)


def test_clicks_on_a_transformed_volume_go_out_in_the_coordinates_of_its_file(ready, peer):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = slicer.util.vtkMatrixFromArray(np.array([[1.0, 0, 0, 100], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    transform.SetMatrixTransformToParent(matrix)
    ready.volume.SetAndObserveTransformNodeID(transform.GetID())
    click(ready.ui.includeButton)
    place("Inside", 60, 12, 3)
    answered(ready)
    assert sent(peer)[-1]["points"][0]["position"] == pytest.approx([-40, 12, 3])


def test_scribbles_are_painted_in_segments_of_their_own(ready, peer):
    ui, array = ready.ui, slicer.util.arrayFromVolume(ready.volume)
    click(ui.scribbleButton)
    assert "anterior inside" in ui.promptsStatusLabel.text
    segmentation = ready._parameters().segmentation
    segments.setSegment(segmentation, ready.volume, "anterior inside", array > 252)
    segments.setSegment(segmentation, ready.volume, "anterior outside", array < 2)
    finish(ready, ui.updateButton)
    [params] = sent(peer)
    assert params["given"] == "scribbles" and params["points"] == []
    np.testing.assert_array_equal(drawn(ready), array > 200)


def test_without_live_update_nothing_is_sent_before_the_button(ready, peer):
    ui = ready.ui
    click(ui.liveCheckBox)
    assert ready._parameters().live is False
    click(ui.includeButton)
    place("Inside", -40, 12, 3)
    place("Inside", -41, 12, 3)
    process_events_until(lambda: False, 0.4)
    assert not sent(peer)
    finish(ready, ui.updateButton)
    assert [len(params["points"]) for params in sent(peer)] == [2]


def test_another_structure_starts_without_the_clicks_of_the_one_before(ready, peer):
    ui = ready.ui
    click(ui.includeButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    before = drawn(ready)
    ui.structureComboBox.setEditText("lesion")
    click(ui.includeButton)
    place("Inside", -42, 12, 3)
    answered(ready)
    assert sent(peer)[-1]["structure"] == "lesion" and len(sent(peer)[-1]["points"]) == 1
    np.testing.assert_array_equal(drawn(ready), before)
    assert drawn(ready, "lesion").any()
    assert voxels(ready._parameters().segmentation, "lesion", ready.volume).any()


def test_the_keys_on_the_buttons_work_in_this_module_only(ready):
    ui = ready.ui
    assert ui.includeButton.text == "+ Inside (I)"
    ready.parent.activateWindow()
    QTest.keyClick(ready.panel.widget, qt.Qt.Key_I)
    assert ui.includeButton.checked
    ready.exit()
    assert not ui.includeButton.checked
    QTest.keyClick(ready.panel.widget, qt.Qt.Key_O)
    assert ready.panel.sections[3]._markups.placing == ""


def test_a_refused_click_says_why_and_the_next_one_is_sent(ready, peer):
    ui = ready.ui
    peer.overrides["POST /infer/interactive"] = jsonReply({"detail": "The click lies outside the volume."}, status=422)
    click(ui.includeButton)
    place("Inside", 900, 12, 3)
    answered(ready)
    assert ui.promptsStatusLabel.text == "The click lies outside the volume."
    del peer.overrides["POST /infer/interactive"]
    click(ui.undoButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    assert len(sent(peer)[-1]["points"]) == 1 and drawn(ready).any()


def test_another_volume_starts_without_the_clicks_of_the_one_before(ready, peer):
    click(ready.ui.includeButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    uploaded(ready, peer, "other", seed=1)
    assert not ready.ui.includeButton.checked and not slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    click(ready.ui.includeButton)
    place("Inside", -42, 12, 3)
    answered(ready)
    assert len(sent(peer)[-1]["points"]) == 1


def test_a_cancelled_answer_leaves_nothing_to_be_sent_later(ready, peer):
    peer.overrides["POST /infer/interactive"] = Reply(b"{}", silence=30)
    click(ready.ui.includeButton)
    place("Inside", -40, 12, 3)
    assert process_events_until(lambda: sent(peer), 10)  # on its way, before it is cancelled
    place("Inside", -41, 12, 3)
    assert ready.ui.updateButton.text == "Cancel"
    click(ready.ui.updateButton)
    answered(ready)
    del peer.overrides["POST /infer/interactive"]
    place("Inside", -42, 12, 3)
    answered(ready)
    process_events_until(lambda: False, 0.2)
    assert [len(params["points"]) for params in sent(peer)] == [1, 3]


def test_a_tool_that_is_ended_in_the_view_is_shown_so(ready):
    click(ready.ui.includeButton)
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)  # Escape
    assert not ready.ui.includeButton.checked


def test_closing_the_scene_forgets_the_clicks(ready, peer):
    click(ready.ui.includeButton)
    place("Inside", -40, 12, 3)
    answered(ready)
    slicer.mrmlScene.Clear(0)
    assert ready.panel.sections[3]._markups._nodes == {} and not ready.ui.includeButton.enabled


def test_a_server_without_prompts_says_so(connected, peer):
    uploaded(connected, peer)
    assert connected.ui.promptsStatusLabel.text == "This server does not segment by clicks."
    assert not connected.ui.includeButton.enabled
