"""Segment, with a version about whole volumes: a question is put, and the answer stands there in words."""

from __future__ import annotations

import json

import pytest
from monailabel_peer import Reply, jsonReply
from panel_clicks import click, finish, uploaded
from slicer_env import process_events_until
from SlicerFM3DLib.answers import inWords
from SlicerFM3DLib.errors import AnswerInvalid

AGE = {"kind": "regression", "answer": {"value": 61.234, "unit": "years"}}
CLASS = {"kind": "classification", "answer": {"class": "ill", "probabilities": {"healthy": 0.171, "ill": 0.829}}}


def choose(ui, key: str) -> None:
    assert ui.versionComboBox.findData(key) >= 0, key
    ui.versionComboBox.setCurrentIndex(ui.versionComboBox.findData(key))


def test_a_version_about_whole_volumes_answers_by_a_click_and_segments_nothing(connected, peer):
    ui = connected.ui
    peer.answers["insight"] = lambda *asked: pytest.fail("there is no uncertainty of an answer")
    peer.segment = lambda *asked: pytest.fail("nothing is segmented")
    peer.answering = {"2": {**AGE, "version": "2", "warnings": ["Thick slices."]}, "4": {**CLASS, "version": "4"}}
    peer.versions = [{"version": 4, "active": False, "labels": ["healthy", "ill"]}]
    peer.versions += [{"version": 2, "active": False, "labels": ["age"]}]
    finish(connected, ui.connectButton)
    uploaded(connected, peer)
    click(ui.uncertaintyCheckBox)
    keys = [ui.versionComboBox.itemData(row) for row in range(ui.versionComboBox.count)]
    assert keys == ["active", "untrained", "2", "4"]
    assert ui.segmentButton.text == "Segment" and ui.uncertaintyCheckBox.enabled

    choose(ui, "4")
    assert ui.versionComboBox.currentText == "Version 4, about whole volumes"
    assert ui.segmentButton.text == "Answer" and "question" in ui.segmentButton.toolTip
    assert not ui.uncertaintyCheckBox.enabled
    finish(connected, ui.segmentButton)
    assert ui.segmentStatusLabel.text == "Version 4, research use, on 'MR head': ill 0.83 (healthy 0.17)."
    assert ui.segmentationSelector.currentNode() is None
    [request] = peer.sent("POST", "/infer/whole_volume")
    assert request.query == {"image": "MR_head", "output": "json"}
    assert json.loads(request.fields["params"]) == {"version": "4"}

    choose(ui, "2")
    finish(connected, ui.segmentButton)
    assert ui.segmentStatusLabel.text == "Version 2, research use, on 'MR head': age 61.2 years. Thick slices."

    peer.overrides["POST /infer/whole_volume"] = jsonReply({"detail": "MR_head: 2 channels. Send 1."}, status=422)
    finish(connected, ui.segmentButton)
    assert ui.segmentStatusLabel.text == "MR_head: 2 channels. Send 1." and "color" in ui.segmentStatusLabel.styleSheet

    peer.overrides["POST /infer/whole_volume"] = Reply(b"{}", silence=30)
    click(ui.segmentButton)
    assert ui.segmentButton.text == "Cancel" and ui.segmentStatusLabel.text == "Answering..."
    click(ui.segmentButton)
    assert process_events_until(lambda: ui.segmentButton.text == "Answer", 3)
    assert ui.segmentStatusLabel.text == "Cancelled."

    choose(ui, "active")
    assert ui.segmentButton.text == "Segment" and ui.uncertaintyCheckBox.enabled
    peer.versions[1]["active"] = True
    finish(connected, ui.connectButton)
    assert ui.segmentButton.text == "Answer", "the active version is about whole volumes now"


def test_each_kind_of_answer_is_said_as_a_person_would():
    findings = {"labels": ["nodule"], "probabilities": {"effusion": 0.2, "nodule": 0.7}}
    curve = [{"time": 120.4, "probability": 0.91}, {"time": 30.0, "probability": 0.5}]
    survival = {"risk": -1.41, "survival": curve, "unit": "days"}
    for kind, answer, words in (
        ("multilabel", findings, "nodule 0.70 (not found: effusion 0.20)"),
        ("multilabel", {**findings, "labels": []}, "no finding (not found: nodule 0.70, effusion 0.20)"),
        ("regression", {"value": 1234.5, "unit": ""}, "value 1234"),
        ("survival", survival, "survival 0.91 after 120 days, 0.50 after 30 days; risk -1.41 (higher: earlier)"),
    ):
        said = inWords("head", {"kind": kind, "answer": answer, "version": "3"}, ())
        assert said == f"Version 3, research use, on 'head': {words}."


@pytest.mark.parametrize(
    "answer", [{}, {"kind": "dream", "answer": {}}, {"kind": "regression", "answer": {"value": "?"}}]
)
def test_an_answer_of_another_kind_is_refused_in_words(answer):
    with pytest.raises(AnswerInvalid, match="cannot be read"):
        inWords("head", answer, ())
