"""The commands, run as a user runs them; mistakes are one line and exit 2."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run

from fm3d_core.adaptation import AdapterStore
from fm3d_core.inference import Predictor
from fm3d_core.volumes import read_label, read_volume


@pytest.fixture(scope="module")
def store(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one adapter, trained for a moment on two of the four cases."""
    store = tmp_path_factory.mktemp("command") / "store"
    assert run("finetune", synthetic_folder, "--shots", 2, "--steps", 25, "--device", "cpu", "--store", store) == 0
    return store


def test_finetuning_makes_a_version_and_evaluation_leaves_its_cases_out(
    store: Path, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", synthetic_folder, "--store", store, "--out", tmp_path / "evaluation") == 0
    printed = capsys.readouterr().out
    assert "2 cases are left out: the adapter has learned from them" in printed and "mean of 2" in printed
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert set(results["means"]) == {"ellipsoid", "tube"} and len(results["cases"]) == 2
    assert (tmp_path / "evaluation" / "comparison.png").stat().st_size > 10_000
    assert run("evaluate", synthetic_folder, "--store", store, "--out", tmp_path / "evaluation") == 2


def test_cross_validation_says_what_dice_to_expect_and_the_list_shows_it(
    synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (synthetic_folder, "--steps", 2, "--device", "cpu", "--store", tmp_path / "store", "--cross-validate")
    assert run("finetune", *common, "--shots", 2) == 0
    assert "Dice to expect on a further volume: 0." in capsys.readouterr().out
    assert run("adapters", "show", 2, "--store", tmp_path / "store") == 0
    assert len(json.loads(capsys.readouterr().out)["expected_dice"]["cases"]) == 2


def test_a_folder_labelled_in_part_is_learned_from_and_measured_where_it_is_annotated(
    synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    shutil.copytree(synthetic_folder, data)
    names = sorted(path.name for path in (data / "labels").iterdir())
    for name in names:
        file = nib.load(data / "labels" / name)
        label = np.asarray(file.dataobj).copy()
        label[:, :, 1::2] = 255
        nib.save(nib.Nifti1Image(label, file.affine), data / "labels" / name)
    finetune = ("finetune", data, "--shots", 2, "--steps", 25, "--device", "cpu", "--store", store)
    assert run(*finetune) == 2 and "none of the 2 labelled cases" in capsys.readouterr().err
    (data / "labels.json").write_text('{"1": "ellipsoid", "2": "tube", "255": "ignore"}')
    (data / "annotation.json").write_text(json.dumps({"cases": {names[3][:-7]: {"structures": ["ellipsoid"]}}}))
    label = nib.load(data / "labels" / names[3])
    values = np.asarray(label.dataobj)
    nib.save(nib.Nifti1Image(np.where(values == 2, 0, values), label.affine), data / "labels" / names[3])
    assert run(*finetune) == 0
    assert "Labelled in part" in " ".join(capsys.readouterr().out.split())
    assert run("evaluate", data, "--store", store, "--out", tmp_path / "evaluation", "--pictures", 1) == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    used = results["adapter"]["card"]["cases"]
    assert [case["annotation"] for case in used] == [{"unlabelled_value": 255}] * 2
    third, fourth = (
        {structure: figures["dice"] for structure, figures in results["cases"][name[:-7]]["structures"].items()}
        for name in names[2:]
    )
    assert fourth["tube"] is None
    truth = read_label(data / "labels" / names[2]).array
    found = Predictor(AdapterStore(store).load()).segment(read_volume(data / "images" / names[2]))[truth != 255]
    for value, name in enumerate(("ellipsoid", "tube"), start=1):
        own, true = found == value, truth[truth != 255] == value
        assert third[name] == pytest.approx(2 * (own & true).sum() / (own.sum() + true.sum()), abs=1e-4) and own.any()


def test_prediction_writes_each_volume_on_its_own_grid_and_overwrites_nothing(
    store: Path, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("predict", synthetic_folder, "--store", store, "--out", out) == 0
    images = sorted((synthetic_folder / "images").iterdir())
    assert sorted(path.name for path in out.iterdir()) == [path.name for path in images]
    for image in images:
        assert nib.load(out / image.name).shape == nib.load(image).shape
        np.testing.assert_allclose(nib.load(out / image.name).affine, nib.load(image).affine, atol=1e-5)
    assert run("predict", images[0], "--store", store, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_bad_volume_among_good_ones_is_refused_and_the_others_are_done(
    store: Path, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((synthetic_folder / "images").iterdir())
    (tmp_path / "bad.nii.gz").write_bytes(good.read_bytes()[:300])
    assert run("predict", good, tmp_path / "bad.nii.gz", "--store", store, "--out", tmp_path / "out") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [good.name]
    assert "1 of 2 volumes were refused" in capsys.readouterr().err


def test_versions_are_listed_shown_activated_and_rolled_back(
    store: Path, synthetic_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("finetune", synthetic_folder, "--shots", 1, "--steps", 1, "--device", "cpu", "--store", store)
    assert run(*begin, "--continue-from", "none") == 0
    # the quick linear head did not push version 2 aside, the whole training did
    said = capsys.readouterr().out
    assert "Version 3 is there, but not active after" in said and "Version 4 is active" in said
    assert run("adapters", "roll-back", "--store", store) == 0
    assert "Version 2 is active again" in capsys.readouterr().out
    assert run("adapters", "activate", 2, "--store", store) == 0
    assert run("adapters", "activate", 1, "--store", store) == 0
    capsys.readouterr()
    assert run("adapters", "list", "--store", store) == 0
    assert "active" in capsys.readouterr().out
    assert run("adapters", "show", 1, "--store", store) == 0
    assert json.loads(capsys.readouterr().out)["task"]["labels"] == ["ellipsoid", "tube"]


def test_mistakes_are_one_line_with_a_remedy_and_exit_2(
    store: Path, synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((synthetic_folder / "images").iterdir())
    (tmp_path / "weights.pth").write_text("no weights")
    (tmp_path / "empty").mkdir()
    mistakes: dict[str, tuple[object, ...]] = {
        "asked for": ("finetune", synthetic_folder, "--shots", 50),
        "unknown label lung": ("finetune", synthetic_folder, "--labels", "lung"),
        "has no case x": ("finetune", synthetic_folder, "--cases", "x"),
        "unknown method": ("finetune", synthetic_folder, "--method", "magic"),
        "holds no images": ("finetune", tmp_path / "empty"),
        "not a readable weight file": ("finetune", synthetic_folder, "--weights", tmp_path / "weights.pth"),
        "nothing was learned yet": ("predict", image, "--store", tmp_path / "nothing"),
        "not an adapter folder": ("predict", image, "--adapter", tmp_path / "empty"),
        "no version 99": ("predict", image, "--store", store, "--version", 99),
        "unknown format": ("predict", image, "--store", store, "--suffix", ".png"),
        "no earlier version": ("adapters", "roll-back", "--store", tmp_path / "nothing"),
        "needs a version": ("adapters", "show", "--store", store),
    }
    for reason, arguments in mistakes.items():
        assert run(*arguments) == 2, reason
        message = capsys.readouterr().err.strip()
        assert message.count("\n") == 0 and message.startswith("fm3d: ") and reason in message, message


def test_unknown_options_exit_2_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--magic") == 2
    assert "magic" in capsys.readouterr().err


def test_the_doctor_reports_packages_processor_memory_folders_and_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("doctor", "--port", port, "--folder", tmp_path) == 0
        report = " ".join(capsys.readouterr().out.split())
    for subject in ("torch", "monai", "processor", "memory", "GPU", "writable", f"port {port} taken"):
        assert subject in report, subject
    assert run("doctor", "--port", port) == 0
    assert f"port {port} free" in " ".join(capsys.readouterr().out.split())
