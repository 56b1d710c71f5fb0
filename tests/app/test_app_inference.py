"""Inference on a real server: automatic, interactive, insight; /info/ answers meanwhile; nobody waits for the dead."""

import gzip
import http.client
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import nibabel
import numpy as np
import psutil
import pytest
from served import ask, form, get, infer, reason, submit, train, upload

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.volumes import read_label, read_volume


@pytest.fixture(scope="module")
def server(tmp_path_factory, synthetic_cases):
    """Two labelled cases, one without a label, one large image, and a version that has learned."""
    folder = tmp_path_factory.mktemp("inference")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))  # of this server alone, so that what stays behind is its own
        running = ServerProcess(folder / "studies", folder / "work", labels=("ellipsoid", "tube"))
        running.start()
    with running_until_the_end(running):
        for case in synthetic_cases[:2]:
            submit(running, case)
        assert upload(running, "third", synthetic_cases[2])[0] == 200
        big = np.random.default_rng(0).normal(500, 100, (224, 224, 160)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(big, np.eye(4)), folder / "big.nii")
        body = form({"params": "{}"}, ("file", "big.nii", (folder / "big.nii").read_bytes()))
        assert ask(running, "PUT", "/datastore/image?image=big", *body)[0] == 200
        assert train(running, steps=5, seed=0)["state"] == "done"
        yield running


@contextmanager
def running_until_the_end(server):
    """Stop a started server after the block."""
    try:
        yield
    finally:
        server.stop()


def loaded(content, tmp_path, name="answer.nii.gz"):
    (tmp_path / name).write_bytes(content)
    return nibabel.load(tmp_path / name)


def test_a_segmentation_comes_with_what_is_expected_of_it(server, synthetic_cases, tmp_path):
    status, params, content = infer(server, "segmentation", "third", uncertainty=True)
    assert status == 200
    image, result = nibabel.load(synthetic_cases[2].image), loaded(content, tmp_path)
    assert result.shape == image.shape and np.allclose(result.affine, image.affine, atol=1e-5)
    expected = params["expected_dice"]
    assert 0 <= expected["low"] <= expected["value"] <= expected["high"] <= 1 and isinstance(expected["reasons"], list)
    assert params["version"].isdecimal() and params["label_names"] == {"ellipsoid": 1, "tube": 2}
    assert set(params["removed_ml"]) <= {"ellipsoid", "tube"}
    assert all(size > 0 for size in params["removed_ml"].values())
    assert infer(server, "segmentation", "third", version="untrained")[1]["expected_dice"] is None


def test_info_answers_within_200_ms_while_a_large_volume_is_segmented(server):
    took = []
    work = threading.Thread(target=infer, args=(server, "segmentation", "big"))
    work.start()
    while work.is_alive() and len(took) < 60:
        started = time.monotonic()
        assert ask(server, "GET", "/info/")[0] == 200
        took.append(time.monotonic() - started)
        time.sleep(0.05)
    work.join()
    load = max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))
    assert len(took) >= 10 and np.median(took) < 0.2 * load, took


def test_a_segmentation_that_nobody_waits_for_is_ended(server):
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    body, headers = form({"params": "{}"})
    connection.request("POST", "/infer/segmentation?image=big", body, headers)
    time.sleep(1)
    connection.close()
    started = time.monotonic()
    status, _, _ = infer(server, "segmentation", "third")  # one lane: waits for what runs
    assert status == 200
    assert time.monotonic() - started < 20  # the large one would have taken longer


# interactive


def middle_of(case, value):
    """RAS mm of a voxel well inside a structure, and its mask."""
    label = read_label(case.label)
    mask = label.array == value
    places = np.argwhere(mask)
    voxel = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return (label.affine @ [*voxel, 1])[:3].tolist(), mask


def dice(one, other):
    return 2 * np.logical_and(one, other).sum() / (one.sum() + other.sum())


def test_a_click_segments_a_structure_and_a_second_one_corrects(server, synthetic_cases, tmp_path):
    case = synthetic_cases[2]
    position, mask = middle_of(case, 1)
    points = [{"position": position, "positive": True}]
    status, params, content = infer(server, "interactive", "third", structure="ellipsoid", points=points)
    assert status == 200, params
    assert params["label_names"] == {"ellipsoid": 1} and params["seconds"] > 0
    result = loaded(content, tmp_path)
    image = nibabel.load(case.image)
    assert result.shape == image.shape and np.allclose(result.affine, image.affine, atol=1e-5)
    first = read_label(tmp_path / "answer.nii.gz").array == 1
    assert dice(first, mask) > 0.4
    assert infer(server, "interactive", "third", points=points)[2] == content  # no state: the same again
    wrong = np.argwhere(first & ~mask)
    if len(wrong):
        affine = read_volume(case.image).affine
        points.append({"position": (affine @ [*wrong[len(wrong) // 2], 1])[:3].tolist(), "positive": False})
        infer(server, "interactive", "third", points=points)
        _, _, corrected = infer(server, "interactive", "third", points=points)
        loaded(corrected, tmp_path, "second.nii.gz")
        second = read_label(tmp_path / "second.nii.gz").array == 1
        assert not second[tuple(wrong[len(wrong) // 2])]


def test_a_box_scribbles_and_a_segmentation_to_correct_are_taken(server, synthetic_cases, tmp_path):
    case = synthetic_cases[2]
    position, mask = middle_of(case, 1)
    label = read_label(case.label)
    places = np.argwhere(mask)
    corners = [(label.affine @ [*place, 1])[:3].tolist() for place in (places.min(axis=0), places.max(axis=0))]
    _, params, content = infer(server, "interactive", "third", box={"low": corners[0], "high": corners[1]})
    loaded(content, tmp_path)
    assert dice(read_label(tmp_path / "answer.nii.gz").array == 1, mask) > 0.4, params

    original = nibabel.load(case.label)
    drawn = np.asarray(original.dataobj)
    scribble = np.zeros_like(drawn)
    inside, outside = np.argwhere(drawn == 1), np.argwhere(drawn == 0)
    scribble[tuple(inside[len(inside) // 2])] = 1
    scribble[tuple(outside[:: max(len(outside) // 50, 1)].T)] = 2
    nibabel.save(nibabel.Nifti1Image(scribble.astype(np.uint8), original.affine), tmp_path / "scribble.nii.gz")
    file = ("label", "scribble.nii.gz", (tmp_path / "scribble.nii.gz").read_bytes())
    status, params, content = infer(server, "interactive", "third", file, given="scribbles")
    assert status == 200, params

    rough = (drawn == 1).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(rough, original.affine), tmp_path / "rough.nii.gz")
    file = ("label", "rough.nii.gz", (tmp_path / "rough.nii.gz").read_bytes())
    points = [{"position": position, "positive": True}]
    status, params, content = infer(server, "interactive", "third", file, given="segmentation", points=points)
    assert status == 200, params
    loaded(content, tmp_path, "corrected.nii.gz")
    assert dice(read_label(tmp_path / "corrected.nii.gz").array == 1, mask) > 0.7


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({}, "where the structure is"),
        ({"points": [{"position": [1e4, 0, 0]}]}, "outside of the volume"),
        ({"points": [{"position": [0, 0]}]}, "points"),
        ({"points": [{"position": ["a", 0, 0]}]}, "points"),
        ({"points": "all"}, "points"),
        ({"points": [{"position": [0, 0, 0], "file": "/x"}]}, "unknown parameter"),
        ({"box": {"low": [0, 0, 0]}}, "box"),
        ({"points": [{"position": [float("nan"), 0, 0]}]}, "points"),
        ({"given": "nothing"}, "given"),
        ({"version": "1"}, "version: unknown parameter"),
    ],
)
def test_prompts_that_say_nothing_are_refused_in_words(server, params, word):
    status, detail, _ = infer(server, "interactive", "third", **params)
    assert (status, word in detail) == (422, True), detail


def test_a_label_on_another_grid_is_refused(server, synthetic_cases, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), tmp_path / "x.nii.gz")
    file = ("label", "x.nii.gz", (tmp_path / "x.nii.gz").read_bytes())
    status, detail, _ = infer(server, "interactive", "third", file)
    assert status == 422 and "the label map" in detail
    status, detail, _ = infer(server, "segmentation", "third", file)
    assert status == 422 and "takes no label" in detail


# insight


def test_insight_gives_colours_and_uncertainty_and_says_what_a_network_has_not(server, synthetic_cases, tmp_path):
    shape = nibabel.load(synthetic_cases[2].image).shape
    status, params, content = infer(server, "insight", "third", kind="pca")
    assert status == 200 and params["kind"] == "pca"
    colours = loaded(content, tmp_path)
    assert colours.shape == shape and colours.get_data_dtype().names == ("R", "G", "B")
    _, _, content = infer(server, "insight", "third", kind="uncertainty")
    uncertainty = np.asarray(loaded(content, tmp_path, "u.nii.gz").dataobj)
    assert uncertainty.shape == shape and uncertainty.dtype == np.float32
    assert 0 <= uncertainty.min() < uncertainty.max() <= 1
    status, detail, _ = infer(server, "insight", "third", kind="attention")
    assert status == 422 and "no transformer" in detail
    assert infer(server, "insight", "third", kind="everything")[0] == 422


def test_the_answers_form_can_be_chosen(server):
    body = form({"params": "{}"})
    status, content = ask(server, "POST", "/infer/segmentation?image=third&output=json", *body)
    assert status == 200 and json.loads(content)["label_names"]
    status, content = ask(server, "POST", "/infer/segmentation?image=third&output=image", *body)
    assert status == 200 and gzip.decompress(content)
    assert reason(server, "POST", "/infer/segmentation?image=third&output=dicom_seg", *body)[0] == 422


def test_no_temporary_file_stays_behind(server):
    infer(server, "segmentation", "third")
    temporary = server.workspace.parent / "temporary"
    deadline = time.monotonic() + 30
    while left := [path.name for path in temporary.iterdir() if path.is_file()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.slow
def test_eight_clients_are_served_while_a_training_runs(server):
    get(server, "/train/segmentation", "POST", {"seconds": 40, "run_id": "meanwhile"})
    answers = []

    def client():
        for _ in range(3):
            answers.append(infer(server, "segmentation", "third")[0])

    clients = [threading.Thread(target=client) for _ in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(300)
    assert answers == [200] * 24
    assert get(server, "/train/?id=meanwhile")["state"] in ("running", "done")
    get(server, "/train/?id=meanwhile", "DELETE")
