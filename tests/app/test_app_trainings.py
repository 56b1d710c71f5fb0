"""Trainings on a real server: watched, queued, cancelled in order, and what a kill leaves behind."""

import http.client
import json
import os
import signal
import threading
import time

import psutil
import pytest
from served import JSON, ask, get, infer, reason, stats, submit, train, wait_for

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.volumes import read_label, read_volume

pytestmark = pytest.mark.slow  # servers and trainings start anew in many tests


@pytest.fixture(scope="module")
def server(tmp_path_factory, synthetic_cases):
    folder = tmp_path_factory.mktemp("trainings")
    with ServerProcess(folder / "studies", folder / "work", labels=("ellipsoid", "tube")) as running:
        for case in synthetic_cases[:2]:
            submit(running, case)
        yield running


# Stages from the beginning, whatever was learned before: the first version lands after seconds, the last much later.
LONG = {"preset": "thorough", "continue_from": "none"}


def until(server, condition, seconds=120.0):
    """The first figures for which ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition(now := stats(server)):
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    return now


def trainer_of(server):
    """The training process of a server."""
    pids = [each.info["pid"] for each in psutil.process_iter(["pid", "cmdline"]) if _trains(each, server)]
    return pids[0] if pids else None


def _trains(process, server):
    line = process.info["cmdline"] or []
    return "MonaiLabelApp.lib.training.process" in line and line[-1].startswith(str(server.workspace))


def test_a_training_teaches_in_stages_and_says_so(server):
    told = train(server, steps=3, seed=0, run_id="first")
    assert told["state"] == "done", told
    assert [each["stage"] for each in told["versions"]] == ["linear_probe", "final"]
    assert all(each["why"] and each["seconds"] > 0 for each in told["versions"])
    assert told["version"] == 2 and told["step"] == 3 and told["loss"] is not None and told["curve"]
    assert get(server, "/train/")["status"] == "DONE"
    listed = get(server, "/adapters/")
    assert listed["active"] == 2 and [each["version"] for each in listed["versions"]] == [2, 1]


def test_it_is_watched_segments_meanwhile_a_second_waits_and_both_end_in_order(server, synthetic_cases):
    before = {each["version"] for each in get(server, "/adapters/")["versions"]}
    first = get(server, "/train/segmentation", "POST", {**LONG, "run_id": "long"})
    second = get(server, "/train/segmentation", "POST", {"steps": 2, "run_id": "short"})
    assert first["message"] == "It begins now." and second["queue_position"] in (1, 2)
    now = until(server, lambda now: now["run_id"] == "long" and now["stage"] == "training" and now["step"])
    assert (now["state"], now["position"]) == ("running", 0)
    assert [each["run_id"] for each in now["queue"]] == ["short"] and now["eta"] > 60
    trainer = psutil.Process(trainer_of(server))
    assert trainer.nice() >= psutil.Process(server.pid).nice()
    assert trainer.memory_info().rss < psutil.Process(server.pid).memory_info().rss + (200 << 20)
    status, params, _ = infer(server, "segmentation", synthetic_cases[0].name)  # goes on meanwhile
    assert status == 200 and params["version"]

    asked = time.monotonic()
    assert get(server, "/train/", "DELETE")["run_id"] == "long"
    assert wait_for(server, "short")["state"] == "done"  # waited, then ran; the first had ended in order
    assert time.monotonic() - asked < 60
    (long,) = [each for each in get(server, "/train/?all=true") if each["run_id"] == "long"]
    assert long["status"] == "STOPPED" and "had landed and was kept" in long["message"]
    after = {each["version"] for each in get(server, "/adapters/")["versions"]}
    assert len(after - before) >= 2


def test_one_that_waits_is_cancelled_by_its_id(server):
    first = get(server, "/train/segmentation", "POST", {"seconds": 600})
    second = get(server, "/train/segmentation", "POST", {"seconds": 600})
    cancelled = get(server, f"/train/?id={second['id']}", "DELETE")
    assert (cancelled["status"], cancelled["message"]) == ("STOPPED", "Cancelled before it began.")
    get(server, f"/train/?id={first['id']}", "DELETE")
    assert wait_for(server, first["run_id"])["state"] == "cancelled"
    assert reason(server, "DELETE", "/train/?id=nothing")[0] == 404


def test_a_users_mistake_ends_the_training_with_its_words(server):
    told = train(server, steps=1, labels=["something else"])
    assert told["state"] == "failed" and "something else" in told["message"] and "\n" not in told["message"]
    task = get(server, "/train/")
    assert task["status"] == "ERROR" and task["details"][-1] == told["message"]


def test_a_killed_trainer_is_said_and_loses_nothing(server):
    get(server, "/train/segmentation", "POST", {**LONG, "run_id": "killed"})
    now = until(server, lambda now: now["run_id"] == "killed" and now["versions"])
    kept = now["versions"][0]["version"]
    os.kill(trainer_of(server), signal.SIGKILL)
    told = wait_for(server, "killed")
    assert told["state"] == "interrupted" and "ended from outside" in told["message"]
    assert kept in [each["version"] for each in get(server, "/adapters/")["versions"]]
    assert not [path for path in server.adapters.rglob("*") if path.name.startswith(".writing")]

    again = get(server, f"/train/again?id={told['id']}", "POST")
    assert again["id"] != told["id"] and again["request"] == get(server, "/train/?id=killed")["request"]
    status, words = reason(server, "POST", f"/train/again?id={again['id']}")
    assert (status, "under way" in words) == (409, True)
    until(server, lambda now: now["run_id"] == again["run_id"] and now["versions"])
    get(server, "/train/", "DELETE")
    assert wait_for(server, again["run_id"])["state"] == "cancelled"
    assert reason(server, "POST", "/train/again?id=nothing")[0] == 404


def test_a_training_cancelled_in_its_last_stage_keeps_what_that_had_learned(server):
    get(server, "/train/segmentation", "POST", {"seconds": 60, "continue_from": "none", "run_id": "cut"})
    until(server, lambda now: now["run_id"] == "cut" and now["stage"] == "training" and (now["eta"] or 60) < 40)
    get(server, "/train/", "DELETE")
    told = wait_for(server, "cut")
    assert told["state"] == "cancelled" and told["versions"][-1]["stage"] == "cut_short"
    version = told["versions"][-1]["version"]
    assert f"Version {version} had landed and was kept" in told["message"]
    assert version in [each["version"] for each in get(server, "/adapters/")["versions"]]


def test_when_server_and_trainer_were_killed_the_next_server_says_so_and_starts_it_again(tmp_path, synthetic_cases):
    server = ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube"))
    server.start()
    try:
        submit(server, synthetic_cases[0])
        get(server, "/train/segmentation", "POST", {"seconds": 600, "run_id": "both"})
        now = until(server, lambda now: now["versions"])
        trainer = trainer_of(server)
        for pid in (server.pid, trainer):
            os.kill(pid, signal.SIGKILL)
        psutil.Process(server.pid).wait(10)
        with ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube")) as again:
            told = wait_for(again, "both")
            assert told["state"] == "interrupted" and "ended from outside" in told["message"]
            assert get(again, "/train/")["state"] == "interrupted"  # what a panel asks when it connects
            kept = [each["version"] for each in get(again, "/adapters/")["versions"]]
            assert kept == [each["version"] for each in now["versions"]][::-1]
            task = get(again, f"/train/again?id={told['id']}", "POST")
            until(again, lambda now: now["run_id"] == task["run_id"] and now["stage"] == "training")
            get(again, "/train/", "DELETE")
            assert wait_for(again, task["run_id"])["state"] == "cancelled"
    finally:
        server.stop()


def test_too_little_memory_is_said_in_words(tmp_path, synthetic_cases):
    with ServerProcess(tmp_path / "studies", tmp_path / "work", training_mb=200) as server:
        submit(server, synthetic_cases[0])
        told = train(server, steps=5)
    assert told["state"] == "failed" and "memory of 0.2 GB is not enough" in told["message"], told


def test_a_killed_server_loses_no_label_and_no_training_and_the_next_one_goes_on(tmp_path, synthetic_cases):
    server = ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube"))
    server.start()
    try:
        for case in synthetic_cases[:2]:
            submit(server, case)
        get(server, "/train/segmentation", "POST", {"seconds": 25, "run_id": "survivor"})
        get(server, "/train/segmentation", "POST", {"steps": 2, "run_id": "waiting"})
        until(server, lambda now: now["run_id"] == "survivor" and now["versions"])
        trainer = trainer_of(server)
        os.kill(server.pid, signal.SIGKILL)
        psutil.Process(server.pid).wait(10)
        assert psutil.pid_exists(trainer)
        again = ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube"))
        with again:
            assert get(again, "/datastore/")["completed"] == 2
            assert wait_for(again, "waiting")["state"] == "done"
            tasks = {each["run_id"]: each["status"] for each in get(again, "/train/?all=true")}
            assert tasks == {"survivor": "DONE", "waiting": "DONE"}  # neither lost nor doubled
            assert get(again, "/datastore/label/info?label=" + synthetic_cases[0].name + "&tag=final")["label_info"]
    finally:
        server.stop()


def test_a_stopped_server_ends_its_training_in_order(tmp_path, synthetic_cases):
    with ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube")) as server:
        submit(server, synthetic_cases[0])
        get(server, "/train/segmentation", "POST", {**LONG, "run_id": "cut"})
        until(server, lambda now: now["versions"])
        trainer = trainer_of(server)
    assert not psutil.pid_exists(trainer)
    with ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube")) as again:
        told = wait_for(again, "cut")
        assert told["state"] == "interrupted" and "The server was stopped meanwhile" in told["message"]
        assert get(again, "/adapters/")["versions"]


def test_an_unknown_key_is_422_and_names_it(server):
    body = json.dumps({"bundle_path": "/tmp"}).encode()
    status, detail = reason(server, "POST", "/train/segmentation", body, JSON)
    assert (status, "bundle_path: unknown parameter" in detail) == (422, True)
    assert ask(server, "POST", "/train/other", b"{}", JSON)[0] == 404


def test_monai_labels_own_client_drives_it(server, synthetic_cases, tmp_path):
    from monailabel.client import MONAILabelClient

    client = MONAILabelClient(server.address, tmpdir=str(tmp_path))
    assert not client.auth_enabled() and client.info()["name"] == "FM3D"
    case = synthetic_cases[2]
    client.upload_image(str(case.image), "theirs")
    assert client.next_sample("first", {})["id"] == "theirs"
    file, params = client.infer("segmentation", "theirs", {"version": "untrained"})
    assert params["label_names"] and (tmp_path / file).stat().st_size > 0
    info = {"label_info": [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]}
    client.save_label("theirs", str(case.label), "", info)
    assert "final" in client.datastore()["objects"]["theirs"]["labels"]
    assert (tmp_path / client.download_label("theirs", "final")).stat().st_size > 0
    client.train_start("segmentation", {"seconds": 600})
    deadline = time.monotonic() + 60
    while not client.train_status(check_if_running=True):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.train_status()["status"] == "RUNNING"
    stopped = client.train_stop()
    assert wait_for(server, stopped["run_id"])["state"] == "cancelled"


def test_a_server_killed_while_labels_are_submitted_has_every_label_it_has_confirmed(tmp_path, synthetic_cases):
    """Four clients submit without a pause; the server is killed in the midst of it."""
    server = ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube"))
    server.start()
    confirmed = []

    def client(number):
        for round_ in range(1000):
            image = f"case_{number}_{round_}"
            try:
                submit(server, synthetic_cases[number % 3], image)
            except (OSError, http.client.HTTPException, AssertionError):
                return
            confirmed.append(image)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for each in clients:
        each.start()
    deadline = time.monotonic() + 60
    while len(confirmed) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(server.pid, signal.SIGKILL)
    for each in clients:
        each.join(60)
    server.stop()
    with ServerProcess(tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube")) as again:
        objects = get(again, "/datastore/?output=all")["objects"]
        for image in confirmed:
            info = objects[image]["labels"]["final"]["info"]["label_info"]
            assert [entry["name"] for entry in info] == ["ellipsoid", "tube"]
        for image, known in objects.items():  # confirmed or not: whole or not there
            assert read_volume(tmp_path / "studies" / f"{image}.nii.gz").array.size
            if "final" in known["labels"]:
                assert read_label(tmp_path / "studies" / "labels" / "final" / f"{image}.nii.gz").array.any()
        assert train(again, steps=1, cases=confirmed[:2])["state"] == "done"
