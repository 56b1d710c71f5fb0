"""Adapter versions over HTTP: listed, activated, rolled back, moved between servers, deleted and restored, compared."""

import io
import json
import zipfile

import pytest
from served import JSON, ask, form, get, infer, reason, stats, submit, train, wait_for_job

from fm3d_core.adaptation import AdapterStore, FinetuneSettings, untrained_adapter
from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.tasks import SegmentationTask

SECRET = "Doe_Jane"


@pytest.fixture(scope="module")
def server(tmp_path_factory, synthetic_cases):
    """Three versions: two of both structures, one of another."""
    folder = tmp_path_factory.mktemp("adapters")
    store = AdapterStore(folder / "adapters")
    both = SegmentationTask(("ellipsoid", "tube"))
    for seed, task in enumerate((both, both, SegmentationTask(("liver",)))):
        store.save(untrained_adapter(task, FinetuneSettings(method="linear_probe", seed=seed)))
    with ServerProcess(folder / "studies", folder / "work", adapters=store.root, upload_mb=40) as running:
        for case in synthetic_cases[:2]:
            submit(running, case)
        submit(running, synthetic_cases[2], SECRET)
        yield running


def test_versions_are_listed_the_newest_first_with_what_they_are(server):
    listed = get(server, "/adapters/")
    assert listed["active"] == 3 and [each["version"] for each in listed["versions"]] == [3, 2, 1]
    newest = listed["versions"][0]
    assert (newest["active"], newest["labels"], newest["method"]) == (True, ["liver"], "linear_probe")
    assert newest["bytes"] > 1000 and newest["backbone"] == "residual_unet_small" and newest["cases"] == []
    assert set(newest) == {
        *("version", "active", "created", "stage", "method", "preset", "labels", "cases", "expected_dice"),
        *("seconds", "notes", "bytes", "backbone", "kind", "recipe"),
    }


def test_activating_and_rolling_back_change_what_segments(server, synthetic_cases):
    assert get(server, "/adapters/2/activate", "POST", {})["version"] == 2
    assert infer(server, "segmentation", synthetic_cases[0].name)[1]["version"] == "2"
    back = get(server, "/adapters/roll-back", "POST", {})
    assert (back["version"], back["active"]) == (3, True)
    _, params, _ = infer(server, "segmentation", synthetic_cases[0].name)
    assert (params["version"], params["label_names"]) == ("3", {"liver": 1})


def test_a_version_travels_without_names_and_is_not_active_on_arrival(server, tmp_path, synthetic_cases):
    status, packed = ask(server, "GET", "/adapters/1/download")
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert sorted(archive.namelist()) == ["adapter.json", "adapter.safetensors"]
    status, content = ask(server, "POST", "/adapters/", *form({}, ("file", "a.zip", packed)))
    assert status == 200, content
    arrived = json.loads(content)
    assert (arrived["version"], arrived["active"], arrived["labels"]) == (4, False, ["ellipsoid", "tube"])
    name = synthetic_cases[0].name
    assert infer(server, "segmentation", name, version=4)[2] == infer(server, "segmentation", name, version=1)[2]


def test_a_strangers_file_is_refused_with_the_reason(server):
    before = get(server, "/adapters/")["versions"]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../evil.py", "print(1)")
    body = form({}, ("file", "a.zip", content.getvalue()))
    status, detail = reason(server, "POST", "/adapters/", *body)
    assert (status, "other files than an adapter" in detail) == (422, True)
    assert reason(server, "POST", "/adapters/", *form({}, ("file", "a.pt", b"\x80\x04pickle")))[0] == 422
    _, packed = ask(server, "GET", "/adapters/1/download")
    other = packed.replace(b'"backbone_sha256": "', b'"backbone_sha256": "0', 1)  # the zip's own checksum stands too
    assert reason(server, "POST", "/adapters/", *form({}, ("file", "a.zip", other)))[0] == 422
    assert get(server, "/adapters/")["versions"] == before


def test_deleting_goes_to_the_bin_and_never_takes_the_active_one(server):
    status, detail = reason(server, "DELETE", "/adapters/3")
    assert (status, "version 3 is active" in detail) == (409, True)
    assert get(server, "/adapters/1", "DELETE")["version"] == 1
    listed = get(server, "/adapters/")
    assert 1 not in [each["version"] for each in listed["versions"]] and listed["deleted"] == [1]
    assert reason(server, "POST", "/adapters/1/activate", b"", JSON)[0] == 404
    assert get(server, "/adapters/1/restore", "POST", {})["version"] == 1
    assert get(server, "/adapters/")["deleted"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/adapters/99/activate", 404),
        ("DELETE", "/adapters/99", 404),
        ("GET", "/adapters/99/download", 404),
        ("POST", "/adapters/99/restore", 409),
        ("POST", "/adapters/..%2f..%2fx/activate", 404),
        ("POST", "/adapters/x/activate", 422),
        ("GET", "/jobs/nothing", 404),
    ],
)
def test_what_is_not_there_is_refused_in_words(server, method, path, status):
    assert reason(server, method, path)[0] == status


def test_two_versions_are_compared_on_submitted_cases(server, synthetic_cases):
    job = get(server, "/adapters/compare", "POST", {"a": 1, "b": 2})
    done = wait_for_job(server, job["job"])
    assert done["state"] == "done", done
    result = done["result"]
    names = {synthetic_cases[0].name, synthetic_cases[1].name, SECRET}
    assert set(result["cases"]) == names and result["learned_from"] == []
    firsts = [each["a"] for each in result["cases"].values()]
    assert result["mean_a"] == pytest.approx(sum(firsts) / len(firsts), abs=1e-4)
    assert result["difference"] == pytest.approx(result["mean_b"] - result["mean_a"], abs=1e-4)
    assert "no difference can be shown with 3 cases" in result["verdict"] and 0 < result["p"] <= 1


def test_comparing_names_what_is_wrong(server, synthetic_cases):
    for wanted, status in [
        ({"a": 1, "b": 99}, 404),
        ({"a": 1, "b": 2, "cases": ["nobody"]}, 404),
        ({"a": 1, "b": 2, "folder": "/tmp"}, 422),
        ({"a": "x", "b": 2}, 422),
    ]:
        assert reason(server, "POST", "/adapters/compare", json.dumps(wanted).encode(), JSON)[0] == status
    job = get(server, "/adapters/compare", "POST", {"a": 1, "b": 3})
    done = wait_for_job(server, job["job"])
    assert (done["state"], "no structure in common" in done["error"]) == ("failed", True)


def test_a_job_can_be_cancelled(server):
    jobs = [get(server, "/adapters/compare", "POST", {"a": 1, "b": 2})["job"] for _ in range(3)]
    for job in jobs:
        get(server, f"/jobs/{job}", "DELETE")
    assert [wait_for_job(server, job)["state"] for job in jobs[1:]] == ["cancelled", "cancelled"]


def test_after_training_the_card_names_its_cases_but_the_file_that_travels_does_not(server):
    told = train(server, method="linear_probe", steps=1, labels=["ellipsoid", "tube"])
    assert told["state"] == "done", told
    newest = get(server, "/adapters/")["versions"][0]
    assert SECRET in newest["cases"] and newest["stage"] == "final" and newest["seconds"] is not None
    _, packed = ask(server, "GET", f"/adapters/{newest['version']}/download")
    assert SECRET.encode() not in packed  # the card is stored without compression
    assert stats(server)["versions"][-1]["version"] == newest["version"]
    job = get(server, "/adapters/compare", "POST", {"a": 1, "b": newest["version"]})
    result = wait_for_job(server, job["job"])["result"]
    assert SECRET in result["learned_from"] and "every case was learned from" in result["verdict"]
