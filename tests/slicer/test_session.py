"""The session's states: what may run when, what is said, and how a training is followed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from monailabel_peer import MonaiLabelPeer, Reply, jsonReply
from slicer_env import process_events_until
from SlicerFM3DLib import multipart, training, wording
from SlicerFM3DLib.background import Job
from SlicerFM3DLib.errors import SceneError
from SlicerFM3DLib.operations import BESIDE, Message, Operation
from SlicerFM3DLib.server_info import ServerInfo, labelValues
from SlicerFM3DLib.session import Session
from SlicerFM3DLib.train_status import TrainStatus


@pytest.fixture
def peer():
    with MonaiLabelPeer() as peer:
        yield peer


@pytest.fixture
def session(peer, monkeypatch):
    monkeypatch.setattr(training, "POLL_SECONDS", 0.05)
    session = Session(Job)
    session.connectTo(peer.address)
    assert process_events_until(lambda: session.info)
    yield session
    session.disconnect()


def end_of(session: Session, operation: Operation, seconds: float = 10.0) -> Message:
    assert process_events_until(lambda: not session.isRunning(operation), seconds)
    return session.messages[operation]


def label_file(tmp_path: Path) -> Path:
    folder = tmp_path / "on its way"
    folder.mkdir()
    path = folder / "label.nrrd"
    path.write_bytes(b"label")
    return path


def test_without_a_server_one_may_connect_or_start_one():
    session = Session(Job)
    assert [o for o in Operation if session.mayStart(o)] == [Operation.CONNECT, Operation.LOCAL_SERVER]
    session.connectTo("not an address")
    assert session.messages[Operation.CONNECT].isError and not session.isRunning(Operation.CONNECT)


def test_connecting_tells_what_the_server_offers(session, peer):
    assert session.info == ServerInfo(
        name="FM3D",
        version="0.1.0",
        labels=("anterior", "posterior"),
        versions=("active", "untrained"),
        choices={"method": ("lora", "full")},
        seconds=90,
        strategies=("first", "random"),
        total=0,
        labelled=0,
        models=("segmentation",),
    )
    assert session.messages[Operation.CONNECT].text == "Connected to FM3D 0.1.0. Volumes labelled: 0 of 0."
    assert session.address == peer.address and session.isLoopback and not session.info.hasLearned


def test_one_operation_at_a_time_and_a_training_beside_it(session, peer, tmp_path):
    peer.overrides["POST /activelearning/random"] = Reply(b"{}", silence=0.3)
    session.nextVolume(tmp_path, lambda path, imageId: None)
    assert not any(session.mayStart(o) for o in Operation if o not in BESIDE)
    assert session.mayStart(Operation.TRAIN)
    session.train({"seconds": 1})
    assert not session.mayStart(Operation.TRAIN)
    assert end_of(session, Operation.NEXT).text == "Every volume on the server is labelled."
    assert session.isRunning(Operation.TRAIN) and session.mayStart(Operation.SEGMENT)


def test_an_upload_is_named_by_what_the_server_has_already(session, peer, tmp_path):
    peer.images["case"] = (".nrrd", b"another patient")
    path = label_file(tmp_path)
    names = []
    session.upload(path, lambda taken: f"case-{len(taken) + 1}", names.append)
    assert end_of(session, Operation.UPLOAD).text == "Uploaded as case-2."
    assert names == ["case-2"] and peer.images["case"][1] == b"another patient"
    assert session.info.total == 2
    assert not path.parent.exists(), "nothing of the patient stays in temporary folders"


def test_an_upload_tells_how_much_has_gone(session, peer, tmp_path, monkeypatch):
    monkeypatch.setattr(multipart, "REPORT_SECONDS", 0)
    path = label_file(tmp_path)
    path.write_bytes(bytes(2 << 20))
    said = []
    session.changed.connect(
        lambda: said.append(session.messages[Operation.UPLOAD].text) if Operation.UPLOAD in session.messages else None
    )
    session.upload(path, lambda taken: "large", lambda imageId: None)
    end_of(session, Operation.UPLOAD)
    session.changed.disconnectAll()
    shares = [int(text.split()[1]) for text in said if text.endswith("%")]
    assert shares == sorted(shares) and len(set(shares)) > 3 and shares[-1] == 100
    assert len(peer.images["large"][1]) == 2 << 20


def test_a_submitted_label_updates_the_count(session, peer, tmp_path):
    info = [{"name": "anterior", "idx": 1}]
    session.submit("case", label_file(tmp_path), info, lambda labelled: f"{labelled} labelled")
    assert end_of(session, Operation.SUBMIT).text == "1 labelled"
    assert peer.labels["case"][0] == {"label_info": info} and session.info.labelled == 1


def test_a_refusal_is_said_once_in_the_servers_words_and_leaves_no_file(session, peer, tmp_path):
    peer.overrides["PUT /datastore/label"] = jsonReply({"detail": "case: empty label. Draw something."}, status=422)
    path = label_file(tmp_path)
    said = []
    session.changed.connect(lambda: said.append(session.messages.get(Operation.SUBMIT)))
    session.submit("case", path, [], str)
    assert end_of(session, Operation.SUBMIT) == Message("case: empty label. Draw something.", isError=True)
    assert len([m for m in said if m and m.isError]) == 1 and not path.parent.exists()


def test_what_goes_wrong_with_a_result_is_said_too(session, peer, tmp_path):
    def refuse(path, values, version):
        raise SceneError("No such volume.")

    peer.segment = lambda imageId, params: (".nrrd", b"mask")
    session.segment("case", "active", tmp_path / "f", refuse)
    assert end_of(session, Operation.SEGMENT).isError  # the folder does not exist: nothing could be written
    (tmp_path / "f").mkdir()
    session.segment("case", "active", tmp_path / "f", refuse)
    assert end_of(session, Operation.SEGMENT) == Message("No such volume.", isError=True)
    assert not (tmp_path / "f").exists()


def test_a_bug_is_logged_and_said_in_one_line(session, peer, tmp_path, caplog):
    peer.segment = lambda imageId, params: (".nrrd", b"mask")
    tmp_path.joinpath("f").mkdir()
    session.segment("case", "active", tmp_path / "f", lambda path, values, version: 1 / 0)
    message = end_of(session, Operation.SEGMENT)
    assert message.isError and "ZeroDivisionError" in message.text and "\n" not in message.text
    assert "Traceback" in caplog.text


def test_a_training_reports_its_steps_and_its_version(session, peer):
    lines = []
    session.changed.connect(lambda: lines.append(session.messages[Operation.TRAIN].text) if session.training else None)
    session.train({"method": "lora", "seconds": 20})
    end = end_of(session, Operation.TRAIN)
    assert lines[0] == "Waiting for the training to start..."
    assert any("Training · about" in line and "left · loss 0." in line and "Dice 0." in line for line in lines)
    assert end == Message("Version 1 is ready and active. loss 0.500 · Dice 0.800")
    assert not session.training.isActive and session.info.versions[-1] == "1" and session.info.hasLearned
    assert peer.trainings[0]["params"] == {"method": "lora", "seconds": 20}


def test_a_second_training_does_not_show_figures_of_the_first(session, peer):
    peer.trainingSeconds = 0.2
    session.train({})
    end_of(session, Operation.TRAIN)
    peer.trainingSeconds = 2.0
    peer.trainings[0]["started"] -= 100
    session.train({})
    assert process_events_until(lambda: len(peer.trainings) == 2)
    assert process_events_until(lambda: session.training and session.training.isActive, 2)
    begin, seen = time.monotonic(), []
    while time.monotonic() - begin < 0.3:
        process_events_until(lambda: False, 0.05)
        seen.append(session.training)
    assert all(status.step == 0 and status.loss is None for status in seen)


def test_cancelling_a_training_insists_until_the_server_has_stopped_it(session, peer):
    """The server cannot stop a training that has no process yet: the first DELETE has no effect."""
    peer.trainingSeconds = 3.0
    session.train({})
    assert process_events_until(lambda: peer.trainings)
    session.cancel(Operation.TRAIN)
    assert session.isCancelling(Operation.TRAIN)
    assert end_of(session, Operation.TRAIN).text == "Training cancelled. The version before stays active."
    assert len(peer.sent("DELETE", "/train/")) > 1


def test_a_failed_training_says_why(session, peer):
    session.train({})
    assert process_events_until(lambda: peer.trainings)
    peer.trainings[0]["error"] = "case-2: the label has no voxel. Draw a structure."
    assert end_of(session, Operation.TRAIN) == Message("case-2: the label has no voxel. Draw a structure.", True)


def test_a_training_survives_a_server_that_is_busy_for_a_moment(session, peer):
    peer.trainingSeconds = 1.5
    session.train({})
    assert process_events_until(lambda: session.training and session.training.step > 0)
    peer.overrides["GET /train/"] = Reply(b"x", cutAfter=0)
    process_events_until(lambda: False, 0.3)
    assert session.isRunning(Operation.TRAIN)
    del peer.overrides["GET /train/"]
    assert end_of(session, Operation.TRAIN).text.startswith("Version 1")


def test_a_server_that_stays_away_is_told(session, peer, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE_SECONDS", 0.2)
    session.train({})
    assert process_events_until(lambda: session.training and session.training.step > 0)
    peer.overrides["GET /train/"] = Reply(b"x", cutAfter=0)
    end = end_of(session, Operation.TRAIN)
    assert end.isError and "broke off" in end.text


def test_a_training_that_runs_already_is_followed_after_connecting(peer, monkeypatch):
    monkeypatch.setattr(training, "POLL_SECONDS", 0.05)
    peer.trainings.append({"started": time.monotonic(), "params": {}, "stopped": False})
    session = Session(Job)
    session.connectTo(peer.address)
    assert process_events_until(lambda: session.isRunning(Operation.TRAIN))
    assert end_of(session, Operation.TRAIN).text.startswith("Version 1 is ready")
    assert len(peer.trainings) == 1 and not peer.sent("POST", "/train/segmentation")


def test_disconnecting_abandons_what_runs_without_a_word(session, peer, tmp_path):
    peer.overrides["POST /infer/segmentation"] = Reply(b"{}", silence=20)
    session.segment("case", "active", tmp_path / "f", lambda *result: pytest.fail("too late"))
    session.disconnect()
    assert not process_events_until(lambda: session.messages, 0.2)
    assert session.address == "" and session.waitedFor is None


def test_the_version_asked_for_is_sent(session, peer, tmp_path):
    peer.segment = lambda imageId, params: (".nrrd", b"mask")
    got = []
    session.segment("case", "untrained", tmp_path, lambda path, values, version: got.append((values, version)))
    assert end_of(session, Operation.SEGMENT).text == "Segmented by the untrained network."
    assert got == [({"anterior": 1, "posterior": 2}, "untrained")]
    [request] = peer.sent("POST", "/infer/segmentation")
    assert json.loads(request.fields["params"]) == {"version": "untrained"}


def test_labels_are_understood_in_both_of_monai_labels_forms():
    assert labelValues({"background": 0, "b": 2, "a": 1}) == {"a": 1, "b": 2}
    assert labelValues(["background", "a", "b"]) == {"a": 1, "b": 2}


def test_a_stock_server_without_fm3ds_additions_is_understood():
    info = ServerInfo.parse({"models": {"deepedit": {"labels": ["spleen"]}}, "labels": ["spleen"], "trainers": {}})
    assert info.labels == ("spleen",) and info.versions == ("active", "untrained") and info.seconds is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (80, "1 min"), (4800, "1 h 20 min")])
def test_times_are_said_as_a_person_would(seconds, text):
    assert wording.duration(seconds) == text


def test_what_was_left_out_of_a_segmentation_is_told_from_a_tenth_of_a_millilitre():
    text = wording.segmented("2", {"removed_ml": {"spleen": 1.24, "liver": 0.02}})
    assert text == "Segmented with version 2. Small parts far from the rest were left out: spleen 1.2 ml."
    assert wording.segmented("2", {"removed_ml": {"liver": 0.02}}) == "Segmented with version 2."


def test_cases_left_out_are_mentioned():
    status = TrainStatus("done", version=2, leftOut=("case-3: grids differ.",))
    assert wording.trained(status) == "Version 2 is ready and active. Left out: case-3: grids differ."
