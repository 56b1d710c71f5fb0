"""The module's HTTP client against a real socket: what it sends, and what it says when something goes wrong."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from monailabel_peer import MonaiLabelPeer, Reply, jsonReply
from SlicerFM3DLib.address import Address
from SlicerFM3DLib.cancellation import Cancellation
from SlicerFM3DLib.client import ServerClient
from SlicerFM3DLib.errors import (
    AddressInvalid,
    AnswerInvalid,
    Cancelled,
    ClientError,
    ConnectionLost,
    ServerRefused,
    ServerTimeout,
    ServerUnreachable,
)
from SlicerFM3DLib.transport import Timeouts

QUICK = Timeouts(connect=0.5, read=0.4, compute=0.6)


@pytest.fixture
def peer():
    with MonaiLabelPeer() as peer:
        yield peer


@pytest.fixture
def client(peer):
    return ServerClient(peer.address, QUICK)


def volume(folder: Path, size: int = 3_000_000, name: str = "Doe^Jane 1.2.nii.gz") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("localhost", "http://localhost:8000"),
        (" 127.0.0.1:8123 ", "http://127.0.0.1:8123"),
        (":8123", "http://127.0.0.1:8123"),
        ("http://0.0.0.0:8000/", "http://127.0.0.1:8000"),
        ("https://label.hospital.org/fm3d/", "https://label.hospital.org:443/fm3d"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_understood_as_a_person_types_it(typed, meant):
    assert str(Address.parse(typed)) == meant


@pytest.mark.parametrize("typed", ["", "http://", "ftp://host", "http://host:port", "a b", "host:99999"])
def test_what_is_no_address_is_said_to_be_none(typed):
    with pytest.raises(AddressInvalid, match="Expected something like http://"):
        ServerClient(typed)


def test_only_this_computer_counts_as_loopback():
    assert Address.parse("localhost").isLoopback and Address.parse("http://[::1]:1").isLoopback
    assert not Address.parse("10.0.0.5").isLoopback and not Address.parse("127.hospital.org.example").isLoopback


def test_an_uploaded_file_arrives_byte_for_byte_and_without_its_own_name(client, peer, tmp_path):
    path = volume(tmp_path)
    assert client.uploadImage(path, "case-1") == "case-1"
    assert peer.images["case-1"] == (".nii.gz", path.read_bytes())
    assert "Doe" not in repr(peer.requests[-1].fileNames)


def test_a_downloaded_image_is_the_uploaded_one(client, tmp_path):
    path = volume(tmp_path)
    client.uploadImage(path, "case-1")
    copy = client.downloadImage("case-1", tmp_path / "..")
    assert copy == tmp_path / ".." / "case-1.nii.gz" and copy.read_bytes() == path.read_bytes()


def test_an_image_id_that_could_leave_the_study_folder_is_not_sent(client, peer, tmp_path):
    with pytest.raises(ClientError, match="cannot name a volume"):
        client.uploadImage(volume(tmp_path, 10), "../../etc/passwd")
    assert not peer.requests


def test_a_segmentation_comes_with_its_parameters_and_a_name_the_server_cannot_choose(client, peer, tmp_path):
    content = b"\r\n--not-the-boundary\r\n" + os.urandom(600_000) + b"\r\n\r\n--"
    peer.segment = lambda imageId, params: ("/../../evil.nrrd", content)
    path, params = client.infer("segmentation", "case/1", tmp_path, {"version": "untrained"})
    assert path == tmp_path / "case_1-segmentation.nrrd" and path.read_bytes() == content
    assert params == {"label_names": ["anterior", "posterior"]}
    assert json.loads(peer.requests[-1].fields["params"]) == {"version": "untrained"}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_an_answer_without_a_segmentation_is_refused(client, peer, tmp_path):
    peer.overrides["POST /infer/segmentation"] = jsonReply({"params": {}})
    with pytest.raises(AnswerInvalid, match="no segmentation"):
        client.infer("segmentation", "case-1", tmp_path)


def test_a_segmentation_that_is_no_volume_file_is_refused(client, peer, tmp_path):
    peer.segment = lambda imageId, params: (".exe", b"MZ")
    with pytest.raises(AnswerInvalid, match="not a volume"):
        client.infer("segmentation", "case-1", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_label_is_submitted_with_what_each_value_means(client, peer, tmp_path):
    info = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]
    path = volume(tmp_path, 1000, "label.seg.nrrd")
    client.saveLabel("case 1", path, info)
    assert peer.labels["case 1"] == ({"label_info": info}, path.read_bytes())
    assert peer.requests[-1].query == {"image": "case 1", "tag": "final"}


def test_the_next_volume_is_none_when_all_are_labelled(client, peer, tmp_path):
    assert client.nextSample() is None
    client.uploadImage(volume(tmp_path, 10), "case-1")
    assert client.nextSample()["id"] == "case-1"


def test_a_server_that_never_trained_says_never(client):
    assert client.trainStatus().state == "never"


def test_figures_of_the_run_before_are_left_out_until_the_new_run_has_its_own(client, peer):
    peer.trainingSeconds = 0.05
    client.train("segmentation", {})
    time.sleep(0.1)
    first = client.trainStatus()
    assert (first.state, first.runId, first.version) == ("done", "run-1", 1)
    peer.trainingSeconds = 5.0
    peer.trainings[0]["started"] -= 10
    client.train("segmentation", {"seconds": 5})
    assert client.trainStatus().stage == "training", "the peer shows stale figures, as the stock server does"
    waiting = client.trainStatus(staleRun=first.runId)
    assert waiting.isActive and (waiting.stage, waiting.step, waiting.loss) == ("", 0, None)
    assert peer.trainings[1]["params"] == {"seconds": 5}


def test_a_failed_training_gives_the_reason_without_the_class_name(client, peer):
    peer.trainings.append({"started": 0.0, "stopped": False, "error": "label.nii.gz: empty label. Draw a structure."})
    status = client.trainStatus()
    assert status.error == "label.nii.gz: empty label. Draw a structure." and not status.isActive


def test_a_second_training_is_refused_in_words(client):
    client.train()
    with pytest.raises(ServerRefused, match=r"^Train Task is Already Running$") as caught:
        client.train()
    assert caught.value.status == 429


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            jsonReply({"detail": "No adapter yet. Press Train first."}, status=409),
            "^No adapter yet. Press Train first.$",
        ),
        (jsonReply({"detail": [{"loc": ["query", "image"], "msg": "missing"}]}, status=422), "query.image: missing"),
        (Reply(b"Internal Server Error", 500, "text/plain"), "gave no reason .HTTP 500."),
        (jsonReply({"detail": "Failed to execute infer"}, status=500), "server failed: Failed to execute"),
        (Reply(b"", 307, headers={"Location": "https://x/"}), "sends elsewhere: https://x/"),
        (jsonReply({}, status=401), "asks for a token"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(client, peer, reply, words):
    peer.overrides["GET /info/"] = reply
    with pytest.raises(ServerRefused, match=words) as caught:
        client.info()
    assert caught.value.status == reply.status


def test_an_upload_refused_before_it_is_read_ends_in_words(client, peer, tmp_path):
    peer.overrides["PUT /datastore/image"] = jsonReply({"detail": "Too large: 20 MB at most."}, status=413)
    # Whether the reason still gets through is up to the two TCP stacks: a reset may overtake it.
    with pytest.raises((ServerRefused, ConnectionLost), match=r"Too large: 20 MB|connection to .* broke"):
        client.uploadImage(volume(tmp_path, 20_000_000), "case-1")


def test_a_silent_server_is_a_timeout_and_not_a_frozen_client(client, peer):
    peer.overrides["GET /info/"] = Reply(b"{}", silence=5)
    start = time.monotonic()
    with pytest.raises(ServerTimeout, match=r"has not answered for 0\.4 s"):
        client.info()
    assert time.monotonic() - start < 2


def test_an_answer_cut_short_leaves_no_file(client, peer, tmp_path):
    headers = {"Content-Disposition": 'attachment; filename="case-1.nii.gz"'}
    peer.overrides["GET /datastore/image"] = Reply(os.urandom(500_000), headers=headers, cutAfter=1000)
    with pytest.raises(ConnectionLost, match="1000 of 500000 bytes"):
        client.downloadImage("case-1", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_not_taken_for_a_server(client, peer):
    peer.overrides["GET /info/"] = Reply(b"<html>", contentType="text/html")
    with pytest.raises(AnswerInvalid, match="Is the address right"):
        client.info()
    peer.overrides["GET /info/"] = jsonReply({"hello": 1})
    with pytest.raises(AnswerInvalid, match="not a MONAI Label server"):
        client.info()


def test_a_port_where_nothing_listens_is_told(tmp_path):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ServerUnreachable, match=r"No server answers .*Connection refused"):
            ServerClient(f"127.0.0.1:{held.getsockname()[1]}", QUICK).info()


def test_a_port_that_speaks_something_else_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            connection, _ = server.accept()
            connection.sendall(b"220 mail server\r\n")
            connection.recv(1000)
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(AnswerInvalid, match="does not speak HTTP"):
            ServerClient(f"127.0.0.1:{server.getsockname()[1]}", QUICK).info()


def test_a_plain_server_called_with_https_is_told(peer):
    with pytest.raises(ServerUnreachable, match="does not speak https"):
        ServerClient(peer.address.replace("http://", "https://"), QUICK).info()


@pytest.mark.parametrize("slow", ["first byte", "body"])
def test_cancelling_ends_a_waiting_request_at_once(peer, tmp_path, slow):
    headers = {"Content-Disposition": "attachment; filename=case-1.nii"}
    wait = {"silence": 20.0} if slow == "first byte" else {"pause": 20.0}
    peer.overrides["GET /datastore/image"] = Reply(bytes(1_000_000), headers=headers, **wait)
    cancellation = Cancellation()
    client = ServerClient(peer.address, Timeouts(read=20)).cancelledBy(cancellation)
    threading.Timer(0.3, cancellation.request).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        client.downloadImage("case-1", tmp_path)
    assert time.monotonic() - start < 3 and not list(tmp_path.iterdir())


def test_a_cancelled_client_sends_nothing(peer):
    cancellation = Cancellation()
    cancellation.request()
    with pytest.raises(Cancelled):
        ServerClient(peer.address).cancelledBy(cancellation).info()
    assert not peer.requests
