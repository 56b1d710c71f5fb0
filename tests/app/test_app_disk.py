"""A disk that is full or read-only under a real server: nothing is lost, and the client hears why."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess

import pytest
from served import ask, form, get, stats, submit, train, wait_for

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.errors import StorageError

pytestmark = pytest.mark.slow  # each test has a server of its own

NAMED = json.dumps({"label_info": [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]})


@pytest.fixture
def small_disk(tmp_path):
    """Mounts small file systems in memory, which only root may."""
    mounted = []

    def mount(name, kilobytes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can only be mounted by root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, left=0):
    """Take all space of a file system but ``left`` bytes."""
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if left:
        os.truncate(folder / "ballast", (folder / "ballast").stat().st_size - left)


def test_versions_that_do_not_fit_are_told_and_those_before_stay(tmp_path, synthetic_cases, small_disk):
    adapters = small_disk("adapters", 900)
    with ServerProcess(
        tmp_path / "studies", tmp_path / "work", labels=("ellipsoid", "tube"), adapters=adapters
    ) as server:
        for case in synthetic_cases[:2]:
            submit(server, case)
        told = train(server, steps=2, method="linear_probe", run_id="fits")
        assert told["state"] == "done", told
        fill(adapters, left=24 << 10)
        told = train(server, steps=2, continue_from="none", run_id="full")
        assert told["state"] == "failed" and "the disk is full" in told["message"], told
        listed = get(server, "/adapters/")
        assert listed["active"] is not None and {each["version"] for each in listed["versions"]} >= {1}
        assert not [path for path in adapters.rglob("*") if path.name.startswith(".writing")]
        (adapters / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(adapters)], check=True)
        told = train(server, steps=2, run_id="read-only")
        assert told["state"] == "failed" and "no permission" in told["message"], told
        subprocess.run(["mount", "-o", "remount,rw,size=8m", str(adapters)], check=True)
        again = get(server, f"/train/again?id={told['id']}", "POST")
        assert wait_for(server, again["run_id"])["state"] == "done"


def test_a_folder_that_cannot_be_written_is_said_before_the_server_starts(tmp_path, small_disk):
    for name in ("adapters", "studies"):
        folder = small_disk(name, 100)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        folders = {"studies": tmp_path / "other", "adapters": tmp_path / "others"} | {name: folder}
        with pytest.raises(StorageError, match="no permission") as error:
            ServerProcess(folders["studies"], tmp_path / "work", adapters=folders["adapters"]).start()
        assert str(folder) in str(error.value)


def test_a_label_that_does_not_fit_is_told_and_the_earlier_one_stays(tmp_path, synthetic_cases, small_disk):
    studies = small_disk("studies", 1200)
    with ServerProcess(studies, tmp_path / "work", labels=("ellipsoid", "tube")) as server:
        case = synthetic_cases[0]
        submit(server, case)
        before = (studies / "labels" / "final" / f"{case.name}.nii.gz").read_bytes()
        fill(studies)
        body = form({"params": NAMED}, ("label", "label.nii.gz", case.label.read_bytes()))
        for method, path, what in (
            ("PUT", f"/datastore/label?image={case.name}", body),
            (
                "PUT",
                "/datastore/image?image=other",
                form({"params": "{}"}, ("file", "x.nii.gz", case.image.read_bytes())),
            ),
        ):
            status, answer = ask(server, method, path, *what)
            assert (status, "the disk is full" in json.loads(answer)["detail"]) == (507, True), answer
        assert (studies / "labels" / "final" / f"{case.name}.nii.gz").read_bytes() == before
        (studies / "ballast").unlink()
        assert list(get(server, "/datastore/?output=all")["objects"]) == [case.name]
        assert ask(server, "PUT", f"/datastore/label?image={case.name}", *body)[0] == 200


def test_a_full_workspace_ends_no_server_and_is_told(tmp_path, synthetic_cases, small_disk):
    work = small_disk("work", 4000)
    with ServerProcess(tmp_path / "studies", work, labels=("ellipsoid", "tube"), adapters=tmp_path / "kept") as server:
        submit(server, synthetic_cases[0])
        assert train(server, steps=2, run_id="before")["state"] == "done"
        fill(work)
        status, answer = ask(
            server, "POST", "/train/segmentation", b'{"steps": 2}', {"Content-Type": "application/json"}
        )
        assert (status, "the disk is full" in json.loads(answer)["detail"]) == (507, True), answer
        assert get(server, "/info/")["train_stats"]["segmentation"]["run_id"] == "before"
        (work / "ballast").unlink()
        assert train(server, steps=2, run_id="after")["state"] == "done"


def test_a_workspace_that_fills_up_while_a_training_runs_is_told(tmp_path, synthetic_cases, small_disk):
    work = small_disk("work", 4000)
    with ServerProcess(tmp_path / "studies", work, labels=("ellipsoid", "tube"), adapters=tmp_path / "kept") as server:
        submit(server, synthetic_cases[0])
        task = get(server, "/train/segmentation", "POST", {"steps": 40, "continue_from": "none"})
        while not stats(server)["versions"]:
            pass
        fill(work)
        told = wait_for(server, task["run_id"])
        assert told["state"] in ("done", "failed") and "full" in told["message"], told
        assert get(server, "/adapters/")["versions"]  # another disk: they are there
