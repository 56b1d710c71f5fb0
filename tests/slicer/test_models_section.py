"""Models: versions are listed, activated, rolled back and compared by clicks."""

from __future__ import annotations

import json

import pytest
import qt
import slicer
from panel_clicks import click, finish, uploaded
from PySide6.QtTest import QTest
from slicer_env import process_events_until
from SlicerFM3DLib.versions import ExpectedDice, parseVersion
from SlicerFM3DLib.wording import expected


def version(number: int, active: bool = False, **more) -> dict:
    dice = {"mean": 0.7 + number / 100, "low": 0.6, "high": 0.8, "how": "cross-validation on 3 cases"}
    entry = {"version": number, "active": active, "created": f"2026-11-2{number}T09:30:00", "stage": "final"}
    entry |= {"method": "lora", "preset": "fast", "labels": ["anterior"], "cases": ["case-1", "case-2"]}
    return entry | {"expected_dice": dice, "seconds": 75, "notes": "", "bytes": 1, "backbone": "small"} | more


@pytest.fixture
def models(connected, peer):
    """Three versions, the newest active, and the section open."""
    peer.versions = [version(3, True), version(2), version(1, expected_dice=None, stage="linear_probe")]
    finish(connected, connected.ui.connectButton)
    connected.ui.modelsCollapsibleButton.collapsed = False
    return connected


def texts(table) -> list[list[str]]:
    return [[table.item(row, c).text() for c in range(table.columnCount)] for row in range(table.rowCount)]


def select(table, row: int) -> None:
    where = table.visualItemRect(table.item(row, 0)).center()
    QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, where)


def test_versions_are_listed_with_what_they_promise(models):
    rows = texts(models.ui.versionsTableWidget)
    assert rows[0] == ["3 (active)", "Final", "0.73 (0.60–0.80)", "2"]
    assert [row[0] for row in rows] == ["3 (active)", "2", "1"]
    assert rows[2][1:3] == ["Linear probe", "–"]
    details = models.ui.versionsTableWidget.item(0, 0).toolTip()
    assert "cross-validation on 3 cases" in details and "Made: 2026-11-23 09:30" in details


def test_another_version_is_activated_and_rolled_back(models, peer):
    ui = models.ui
    assert not ui.activateButton.enabled, "the selected one is active already"
    select(ui.versionsTableWidget, 1)
    finish(models, ui.activateButton)
    assert ui.modelsStatusLabel.text == "Version 2 is active."
    assert [v["version"] for v in peer.versions if v["active"]] == [2]
    assert texts(ui.versionsTableWidget)[1][0] == "2 (active)"
    finish(models, ui.rollBackButton)
    assert ui.modelsStatusLabel.text == "Version 3 is active." and texts(ui.versionsTableWidget)[0][0] == "3 (active)"


def test_two_versions_are_compared_on_the_submitted_cases(models, peer):
    ui = models.ui
    result = {"cases": {"case-1": {"a": 0.91, "b": 0.8}, "case-9": {"a": 0.7, "b": None}}}
    result |= {"mean_a": 0.805, "mean_b": 0.8, "difference": 0.005, "p": 0.4, "learned_from": ["case-1"]}
    result |= {"verdict": "No difference that chance could not explain."}
    peer.jobs["compare"] = [
        {"state": "running", "stage": "segmenting", "step": 1, "total": 4, "eta": 3},
        {"state": "done", "result": result},
    ]
    assert ui.compareComboBox.currentText == "Version 2"
    finish(models, ui.compareButton)
    text = ui.compareStatusLabel.text
    assert "0.805 (version 3), 0.800 (version 2)" in text and "No difference" in text and "marked *" in text
    assert texts(ui.comparisonTableWidget) == [["case-1 *", "0.910", "0.800"], ["case-9", "0.700", "–"]]
    assert ui.comparisonTableWidget.horizontalHeaderItem(1).text() == "Version 3"


def test_a_long_comparison_is_cancelled_on_the_server_too(models, peer):
    peer.jobs["compare"] = [{"state": "running", "stage": "segmenting", "step": 1, "total": 400, "eta": 900}]
    click(models.ui.compareButton)
    assert models.ui.compareButton.text == "Cancel" and models.ui.nextButton.enabled, "other work goes on beside it"
    assert process_events_until(lambda: "1 of 400" in models.ui.compareStatusLabel.text)
    click(models.ui.compareButton)
    assert process_events_until(lambda: models.ui.compareButton.text == "Dice on submitted cases")
    assert models.ui.compareStatusLabel.text == "Cancelled." and peer.cancelledJobs == ["compare"]


def test_a_failed_comparison_says_why(models, peer):
    peer.jobs["compare"] = [{"state": "failed", "error": "No labelled case. Submit one."}]
    finish(models, models.ui.compareButton)
    assert models.ui.compareStatusLabel.text == "No labelled case. Submit one."


def test_a_version_is_not_compared_with_itself(models):
    ui = models.ui
    ui.compareComboBox.setCurrentIndex(ui.compareComboBox.findData("3"))
    assert not ui.compareButton.enabled


def test_a_server_that_keeps_no_versions_is_understood(connected):
    connected.ui.modelsCollapsibleButton.collapsed = False
    assert connected.logic.session.info.adapters == ()
    assert "Nothing learned yet" in connected.ui.modelsStatusLabel.text and not connected.ui.activateButton.enabled


def test_an_estimate_without_an_interval_claims_none():
    assert expected(ExpectedDice(0.8, 0.8, 0.8)) == "0.80" and expected(None) == "–"
    assert parseVersion({"version": 1, "expected_dice": {"mean": None}}).expected is None


def test_two_versions_are_seen_side_by_side_and_then_one_view_again(models, peer):
    ui = models.ui
    layout = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    volume = uploaded(models, peer)
    finish(models, ui.sideBySideButton)
    assert ui.compareStatusLabel.text == "Left: version 3. Right: version 2."
    left, right = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert [node.GetName() for node in (left, right)] == ["MR head version 3", "MR head version 2"]
    assert left.GetDisplayNode().GetViewNodeIDs() == ("vtkMRMLSliceNodeRed",)
    assert right.GetDisplayNode().GetViewNodeIDs() == ("vtkMRMLSliceNodeYellow",)
    assert layout.GetViewArrangement() == layout.SlicerLayoutSideBySideView
    asked = [json.loads(r.fields["params"])["version"] for r in peer.sent("POST", "/infer/segmentation")]
    assert asked == ["3", "2"] and volume.GetName() == "MR head"
    assert ui.sideBySideButton.text == "End side by side"
    click(ui.sideBySideButton)
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView
    assert left.GetDisplayVisibility() and not right.GetDisplayVisibility()
    assert left.GetDisplayNode().GetViewNodeIDs() == () and ui.sideBySideButton.text == "Side by side"
