"""``fm3d evaluate`` of files of predictions against a list."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run as fm3d

from fm3d_core.evaluation.predictions import Predictions, read_predictions, write_csv, write_json
from fm3d_core.tasks import ClassificationTask, RegressionTask

CLASSES = ("healthy", "ill", "very ill")


run = partial(fm3d, "evaluate")


@pytest.fixture
def truth(tmp_path: Path) -> np.ndarray:
    """A list of 40 test cases with small images; their classes."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 3, 40)
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "diagnosis", "age"])
        for number, each in enumerate(classes):
            image = tmp_path / f"c{number:02d}.nii.gz"
            nib.save(nib.Nifti1Image(generator.normal(0, 1, (6, 7, 8)).astype(np.float32), np.eye(4)), image)
            writer.writerow([image.name, "test", CLASSES[each], 30 + number])
    return classes


def drawn(classes: np.ndarray, seed: int, skill: float) -> Predictions:
    scores = np.random.default_rng(seed).normal(0, 1, (40, 3))
    scores[np.arange(40), classes] += skill
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    names = tuple(f"c{number:02d}" for number in range(40))
    return Predictions(ClassificationTask(CLASSES, "diagnosis"), names, probabilities)


def test_figures_report_and_worst_cases(
    truth: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    predictions = drawn(truth, 1, 1.5)
    file, out = write_json(tmp_path / "p.json", predictions), tmp_path / "out"
    assert run(tmp_path / "cases.csv", "--predictions", file, "--out", out, "--worst", 3) == 0
    text = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    auc = results["figures"]["auc"]
    assert f"{auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in text
    assert auc["low"] < auc["mean"] < auc["high"] and auc["count"] == 40
    accuracy = (predictions.activated.argmax(1) == truth).mean()
    assert results["figures"]["accuracy"]["mean"] == pytest.approx(accuracy, abs=1e-4)
    errors = 1 - predictions.activated[np.arange(40), truth]
    worst = [f"c{number:02d}" for number in np.argsort(-errors, kind="stable")[:3]]
    page = (out / "report.html").read_text()
    places = [page.index(f"<figcaption>{name}: said") for name in worst]
    assert places == sorted(places) and page.count('<img src="data:image/png;base64') == 3
    assert results["files_sha256"][str(file)] and results["run"]["configuration"]["split"] == "test"
    assert run(tmp_path / "cases.csv", "--predictions", file, "--out", out) == 2


def test_csv_and_json_are_the_same_and_one_of_another_program_is_read(truth: np.ndarray, tmp_path: Path) -> None:
    predictions = drawn(truth, 1, 1.5)
    task = predictions.task
    as_csv = read_predictions(write_csv(tmp_path / "p.csv", predictions), task)
    as_json = read_predictions(write_json(tmp_path / "p.json", predictions))
    np.testing.assert_allclose(as_csv.activated, as_json.activated, atol=1e-5)
    assert as_csv.names == as_json.names and as_json.task == task
    (tmp_path / "other.csv").write_text("case,p_very ill,p_ill,p_healthy\nc01,0.7,0.2,0.1\n")
    other = read_predictions(tmp_path / "other.csv", task)
    assert other.activated.tolist() == [[0.1, 0.2, 0.7]]
    (tmp_path / "task.yaml").write_text("kind: classification\nlabels: [healthy, ill, very ill]\ncolumn: diagnosis\n")
    common = (tmp_path / "cases.csv", "--predictions", tmp_path / "p.csv")
    assert run(*common) == 2  # a CSV file does not say what was asked
    assert run(*common, "--task", tmp_path / "task.yaml") == 0


def test_a_better_file_is_better_by_the_paired_test_and_runs_by_welch(truth: np.ndarray, tmp_path: Path) -> None:
    good = [write_json(tmp_path / f"good{seed}.json", drawn(truth, seed, 3)) for seed in range(3)]
    poor = [write_json(tmp_path / f"poor{seed}.json", drawn(truth, seed, 0.3)) for seed in range(3, 6)]
    assert run(tmp_path / "cases.csv", "--predictions", good[0], "--against", poor[0], "--out", tmp_path / "one") == 0
    one = json.loads((tmp_path / "one" / "results.json").read_text())["comparison"]
    assert one["error of a case"]["wilcoxon_p"] < 0.01 and one["error of a case"]["difference"]["high"] < 0
    assert one["auc"]["difference"]["low"] > 0 and "welch_p" not in one["auc"]
    assert run(tmp_path / "cases.csv", "--predictions", *good, "--against", *poor, "--out", tmp_path / "runs") == 0
    runs = json.loads((tmp_path / "runs" / "results.json").read_text())["comparison"]
    assert runs["auc"]["welch_p"] < 0.01 and runs["auc"]["mean"][0] > runs["auc"]["mean"][1]
    assert "Welch" not in (tmp_path / "one" / "report.html").read_text()
    assert "welch" in (tmp_path / "runs" / "report.html").read_text()


def test_mistakes_are_told(truth: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_json(tmp_path / "p.json", drawn(truth, 1, 1))
    cases = tmp_path / "cases.csv"
    assert run(cases, "--predictions", file, "--split", "training") == 2
    assert "--split test" in capsys.readouterr().err
    ages = Predictions(RegressionTask("age", mean=50, sd=1), ("c01",), np.array([[40.0]]))
    other = write_json(tmp_path / "ages.json", ages)
    assert run(cases, "--predictions", file, "--against", other) == 2 and "different quest" in capsys.readouterr().err
    assert run(cases, "--predictions", cases) == 2 and "what was asked" in capsys.readouterr().err
    assert run(tmp_path, "--predictions", file) == 2
    assert run(cases, "--predictions", other) == 0  # one case has an answer; the others are left out, and said so
    assert "c02: no answer" in capsys.readouterr().out
