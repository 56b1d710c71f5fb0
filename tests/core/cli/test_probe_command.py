"""``fm3d probe`` on small made volumes whose class can be seen, and whose value can be measured."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run as fm3d

from fm3d_core.adaptation.feature_cache import FeatureCache

run = partial(fm3d, "probe")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 30 volumes: stripes or a smooth block; "share" is how much of the volume the block fills."""
    folder = tmp_path_factory.mktemp("probe")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        striped, edge = number % 2, int(generator.integers(8, 20))
        array = generator.normal(20, 4, (24, 24, 24)).astype(np.float32)
        inside = array[2 : 2 + edge, 2:22, 2:22]
        inside += 100 + (60 * (np.arange(20) % 4 < 2)[None, None] if striped else 30)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"case_{number:02d}.nii.gz")
        split = "test" if number >= 22 else "validation" if number >= 16 else "training"
        kind = "striped" if striped else "smooth"
        rows.append([f"case_{number:02d}.nii.gz", split, kind, edge / 24, striped, int(edge > 14)])
    rows[3][2] = ""  # a case of which nothing is known
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "kind", "share", "stripes", "large"])
        writer.writerows(rows)
    return folder / "cases.csv"


def test_a_class_is_found_the_choice_is_told_and_features_are_kept(
    cases: Path, tmp_path: Path, fm3d_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    common = (cases, "--target", "kind", "--backbone", "vit_light_8", "--size", 24, "--iterations", 200)
    assert run(*common, "--out", tmp_path / "a", "--worst", 2, "--device", "cpu") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "best of 104 settings on 6 validation cases" in text and "20 nearest neighbours" in text
    assert "Left out: case_03: has no kind" in text
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert len(results["settings"]) == 104 and len(results["cases"]) == 8 and len(results["training_cases"]) == 15
    assert results["figures"]["balanced_accuracy"]["mean"] > 0.9
    scores = [row["validation"]["balanced_accuracy"] + row["validation"]["auc"] for row in results["settings"]]
    assert scores[0] == max(scores) and results["chosen"] == results["settings"][0]
    assert results["run"]["configuration"]["iterations"] == 200 and results["task"]["labels"] == ["smooth", "striped"]
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64') == 2 and page.count("<svg") == 3
    with (tmp_path / "a" / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["case"] for line in lines] == sorted(results["cases"]) and set(lines[0]) == {
        "case",
        "class",
        "probability smooth",
        "probability striped",
    }

    class Unreached(Exception):
        pass

    def refuse(*_: object) -> None:
        raise Unreached

    monkeypatch.setattr(FeatureCache, "write", refuse)  # a second run computes no feature
    assert run(*common, "--out", tmp_path / "b", "--device", "cpu") == 0
    again = json.loads((tmp_path / "b" / "results.json").read_text())
    assert again["cases"] == results["cases"] and again["settings"] == results["settings"]
    assert run(*common, "--out", tmp_path / "b") == 2


def test_a_value_is_measured_by_a_pyramid_without_validation_cases(cases: Path, tmp_path: Path) -> None:
    rows = [line for line in cases.read_text().splitlines() if "validation" not in line]
    (cases.parent / "two.csv").write_text("\n".join(rows))
    common = ("--kind", "regression", "--target", "share", "--size", 24, "--iterations", 400, "--device", "cpu")
    assert run(cases.parent / "two.csv", *common, "--out", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["settings"]) == 52 and results["features_scaled"]  # a pyramid has no patch tokens
    assert len(results["validation_cases"]) == 4 and len(results["training_cases"]) == 12
    spread = np.std([case["truth"][0] for case in results["cases"].values()])
    assert results["figures"]["mae"]["mean"] < 0.7 * spread
    assert results["task"]["mean"] is not None


def test_findings_and_survival_run_too(cases: Path, tmp_path: Path) -> None:
    common = (cases, "--size", 24, "--iterations", 100, "--device", "cpu", "--layers", 1, "--learning-rates", 0.01, 0.1)
    assert run(*common, "--kind", "multilabel", "--target", "stripes", "large", "--out", tmp_path / "m") == 0
    results = json.loads((tmp_path / "m" / "results.json").read_text())
    assert len(results["settings"]) == 2 and results["figures"]["map"]["mean"] > 0.7
    assert run(*common, "--kind", "survival", "--target", "share", "stripes", "--out", tmp_path / "s") == 0
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["figures"]["c_index"]["count"] == 8 and results["neighbours"] == {}


def test_mistakes_are_told(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cases, "--out", tmp_path) == 2 and "--task or --target" in capsys.readouterr().err
    assert (
        run(cases, "--target", "nothing", "--out", tmp_path) == 2 and "no case has nothing" in capsys.readouterr().err
    )
    assert run(cases, "--kind", "survival", "--target", "share", "--out", tmp_path) == 2
    assert "survival has 2 columns" in capsys.readouterr().err
