"""What must be survived (robustness.md, 4d), sent to a real server: refused in words, or served; never a bare 500."""

import gzip
import json
import threading

import nibabel
import numpy as np
import pytest
from served import JSON, ask, form, get, infer, reason, submit, train, wait_for

from fm3d_core.cli.server_process import ServerProcess

pytestmark = pytest.mark.slow  # servers and trainings start anew in many tests

NAMED = json.dumps({"label_info": [{"name": "ellipsoid", "idx": 1}, {"name": "tube", "idx": 2}]})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    with ServerProcess(folder / "studies", folder / "work", labels=("ellipsoid", "tube")) as running:
        yield running


def put(server, image_id, name, content):
    return ask(server, "PUT", f"/datastore/image?image={image_id}", *form({"params": "{}"}, ("file", name, content)))


def put_label(server, image_id, content, name="label.nii.gz"):
    fields = form({"params": NAMED}, ("label", name, content))
    return ask(server, "PUT", f"/datastore/label?image={image_id}", *fields)


def nifti(array, affine=None):
    return gzip.compress(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine).to_bytes())


def test_every_odd_real_file_is_served_or_refused_in_words(server, shared_data):
    files = [path for path in sorted((shared_data / "robustness").iterdir()) if path.is_file()]
    assert len(files) > 30
    served = 0
    for number, path in enumerate(files):
        status, content = put(server, f"odd_{number}", path.name, path.read_bytes())
        told = json.loads(content)
        assert status == 200 or (status == 422 and told["detail"].count(".") >= 1), (path.name, status, content)
        assert "/tmp" not in content.decode(), path.name
        if status == 200 and path.stat().st_size < 300_000:
            status, params, _ = infer(server, "segmentation", f"odd_{number}", version="untrained")
            assert status in (200, 422), (path.name, status, params)
            served += status == 200
    assert served >= 5


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((8, 8), np.int16), "3D"),
        (np.zeros((8, 8, 8, 3), np.int16), "frame"),
        (np.zeros((8, 8, 8), np.complex64), "complex"),
    ],
)
def test_what_is_no_volume_is_refused(server, array, word):
    status, content = put(server, "no_volume", "x.nii.gz", nifti(array))
    assert (status, word in json.loads(content)["detail"]) == (422, True), content


def test_a_gz_bomb_takes_no_memory(server):
    import psutil

    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()
    before = psutil.Process(server.pid).memory_info().rss
    status, _ = put(server, "bomb", "bomb.nii.gz", gzip.compress(header + bytes(600 << 20), 9))
    after = psutil.Process(server.pid).memory_info().rss
    assert status in (200, 422)  # what lies behind the voxels is not read
    assert after - before < 200 << 20


def test_a_constant_and_an_infinite_image_are_segmented_with_a_warning_but_not_learned_from(server, synthetic_cases):
    label = nibabel.load(synthetic_cases[0].label)
    constant = np.full(label.shape, 7, np.int16)
    assert put(server, "constant", "x.nii.gz", nifti(constant, label.affine))[0] == 200
    assert infer(server, "segmentation", "constant", version="untrained")[0] == 200
    infinite = np.asarray(nibabel.load(synthetic_cases[0].image).dataobj, np.float32).copy()
    infinite[3, 3, 3] = np.inf
    assert put(server, "infinite", "x.nii.gz", nifti(infinite, label.affine))[0] == 200
    assert infer(server, "segmentation", "infinite", version="untrained")[1]["warnings"]
    for image in ("constant", "infinite"):
        assert put_label(server, image, synthetic_cases[0].label.read_bytes())[0] == 200
    submit(server, synthetic_cases[1])
    told = train(server, steps=1)
    assert told["state"] == "done" and len(told["left_out"]) == 2, told
    assert all(any(name in text for text in told["left_out"]) for name in ("constant", "infinite"))


def test_labels_that_do_not_fit_are_refused(server, synthetic_cases):
    case = synthetic_cases[2]
    assert put(server, "fits", "x.nii.gz", case.image.read_bytes())[0] == 200
    label = nibabel.load(case.label)
    values = np.asarray(label.dataobj)
    moved = label.affine.copy()
    moved[0, 3] += 2
    bad = {
        "another shape": nifti(values[:-1], label.affine),
        "another place": nifti(values, moved),
        "empty": nifti(np.zeros_like(values), label.affine),
        "half values": nifti(values.astype(np.float32) * 0.5, label.affine),
        "large values": nifti(np.where(values > 0, 300, 0).astype(np.int16), label.affine),
        "a value without a name": nifti(np.where(values > 0, 7, 0).astype(np.uint8), label.affine),
        "cut off": case.label.read_bytes()[:-30],
    }
    for what, content in bad.items():
        status, answer = put_label(server, "fits", content)
        assert status == 422 and "label of fits" in json.loads(answer)["detail"], (what, answer)
    assert get(server, "/datastore/?output=all")["objects"]["fits"]["labels"] == {}


@pytest.mark.parametrize("name", ["x.pt", "x.npy", "x.pkl", "x.zip", "x.dcm", "x.nii.gz.exe", "x"])
def test_other_kinds_of_files_are_refused(server, name):
    assert put(server, "kind", name, b"\x80\x04junk")[0] == 422


def test_names_that_differ_by_case_only_are_refused(server, synthetic_cases):
    assert put(server, "Case_A", "x.nii.gz", synthetic_cases[0].image.read_bytes())[0] == 200
    status, content = put(server, "case_a", "x.nii.gz", synthetic_cases[1].image.read_bytes())
    assert (status, "by case only" in json.loads(content)["detail"]) == (409, True)


def test_files_with_blanks_and_in_any_script_are_served(server, synthetic_cases):
    from urllib.parse import quote

    for name in ("my scan", "扫描 1", "übung 🧠"):
        (server.studies / f"{name}.nii.gz").write_bytes(synthetic_cases[0].image.read_bytes())
        get(server, "/activelearning/first", "POST", {})  # looks for new files
        assert infer(server, "segmentation", quote(name), version="untrained")[0] == 200


def test_a_link_out_of_the_folder_is_not_followed(server, synthetic_cases):
    (server.studies / "link.nii.gz").symlink_to(synthetic_cases[0].image)
    get(server, "/activelearning/first", "POST", {})
    assert reason(server, "POST", "/infer/segmentation?image=link", *form({"params": "{}"}))[0] == 404
    assert ask(server, "GET", "/datastore/image?image=link")[0] == 404


@pytest.mark.parametrize(
    "params",
    [{"seconds": 1e9}, {"steps": -3}, {"epochs": 1}, {"cases": [1, {}]}, {"preset": "?"}, {"seed": 2**40}],
)
def test_impossible_trainings_start_nothing(server, params):
    before = len(ask_all(server))
    status, content = ask(server, "POST", "/train/segmentation", json.dumps(params).encode(), JSON)
    assert status == 422 and next(iter(params)) in json.loads(content)["detail"]
    assert len(ask_all(server)) == before


def ask_all(server):
    return get(server, "/train/?all=true")


def test_two_clients_press_train_at_once_and_a_case_is_deleted_meanwhile(server, synthetic_cases):
    submit(server, synthetic_cases[0], "kept")
    submit(server, synthetic_cases[1], "deleted")
    tasks = []

    def press():
        tasks.append(get(server, "/train/segmentation", "POST", {"steps": 2, "cases": ["kept", "deleted"]}))

    clients = [threading.Thread(target=press) for _ in range(2)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert len({task["id"] for task in tasks}) == 2
    assert get(server, "/datastore/image?id=deleted", "DELETE") == {}
    ends = [wait_for(server, task["run_id"]) for task in tasks]
    assert [end["state"] for end in ends] == ["done", "done"], ends
    assert (server.studies / "bin" / "images").is_dir()  # nothing is thrown away
    assert sum("deleted" in text for end in ends for text in end["left_out"]) >= 1


def test_a_label_submitted_again_keeps_the_earlier_one_in_the_bin(server, synthetic_cases):
    submit(server, synthetic_cases[2], "again")
    first = (server.studies / "labels" / "final" / "again.nii.gz").read_bytes()
    label = nibabel.load(synthetic_cases[2].label)
    changed = np.asarray(label.dataobj).copy()
    changed[2, 2, 2] = 1
    assert put_label(server, "again", nifti(changed, label.affine))[0] == 200
    kept = [path.read_bytes() for path in (server.studies / "bin" / "labels" / "final").glob("again.*.nii.gz")]
    assert first in kept
