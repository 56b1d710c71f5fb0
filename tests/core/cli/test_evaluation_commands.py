"""``fm3d evaluate`` and ``fm3d compare``: their figures, what they leave out, and what they write."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import run
from matplotlib.image import imread

from fm3d_core.files import sha256_of


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in one line."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def store(synthetic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2 was trained for a moment (1 is its linear head); 3, of another case, knows nothing, and its structures
    stand in another order.
    """
    store = tmp_path_factory.mktemp("compared") / "store"
    common = ("--device", "cpu", "--store", store)
    assert run("finetune", synthetic_folder, "--shots", 1, "--steps", 20, *common) == 0
    second = (
        "--cases",
        "synthetic_006",
        "--labels",
        "tube",
        "ellipsoid",
        "--steps",
        1,
        "--no-closed-form",
        "--continue-from",
        "none",
    )
    assert run("finetune", synthetic_folder, *second, *common) == 0
    return store


@pytest.fixture
def folder(synthetic_folder: Path, tmp_path: Path) -> Path:
    """A copy of the cases that a test may change."""
    return Path(shutil.copytree(synthetic_folder, tmp_path / "cases"))


def add_case(folder: Path, source: str, name: str) -> None:
    """A labelled case under another name, byte for byte."""
    for kind in ("images", "labels"):
        shutil.copy(folder / kind / f"{source}.nii.gz", folder / kind / f"{name}.nii.gz")


def test_every_figure_of_every_case_is_written_with_the_adapter_and_the_hashes(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "first.json"
    assert run("evaluate", folder, "--store", store, "--version", 2, "--out", out, "--device", "cpu") == 0
    text = printed(capsys)
    assert "1 case is left out" in text and "mean of 3, with 95 % bootstrap interval" in text and "HD95 mm" in text

    results = json.loads(out.read_text())
    assert results["left_out"] == ["synthetic_005"] and results["tolerance_mm"] == 2
    assert set(results["cases"]) == {"synthetic_006", "synthetic_007", "synthetic_008"}
    case = results["cases"]["synthetic_007"]
    assert case["image_sha256"] == sha256_of(folder / "images" / "synthetic_007.nii.gz")
    assert case["label_sha256"] == sha256_of(folder / "labels" / "synthetic_007.nii.gz")
    assert set(case["structures"]["tube"]) == {"dice", "hd95", "surface_dice", "found_in"}
    means, dice = (
        results["means"]["ellipsoid"],
        [one["structures"]["ellipsoid"]["dice"] for one in results["cases"].values()],
    )
    assert means["dice"]["mean"] == pytest.approx(np.mean(dice), abs=1e-4) and means["dice"]["count"] == 3
    assert f"{means['dice']['mean']:.3f}" in text and f"{means['dice']['low']:.3f}" in text
    adapter = results["adapter"]
    assert adapter["version"] == 2 and len(adapter["card"]["cases"]) == 1
    assert adapter["tensors_sha256"] == sha256_of(store / "v0002" / "adapter.safetensors")
    assert out.with_suffix(".png").stat().st_size > 10_000
    run_of = results["run"]
    assert run_of["configuration"]["tolerance"] == 2 and run_of["configuration"]["adapter"]["version"] == 2
    assert run_of["versions"]["torch"] and run_of["command"] == "fm3d evaluate"


def test_the_report_is_one_file_with_the_worst_cases_as_pictures(store: Path, folder: Path, tmp_path: Path) -> None:
    name = "<b>&.nii.gz"  # a name that would be HTML
    for kind in ("images", "labels"):
        (folder / kind / "synthetic_006.nii.gz").rename(folder / kind / name)
    common = ("evaluate", folder, "--store", store, "--version", 2, "--device", "cpu", "--worst", 2)
    assert run(*common, "--out", tmp_path / "evaluation") == 0
    page = (tmp_path / "evaluation" / "report.html").read_text()
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    mean = {
        case: np.mean([figures["dice"] for figures in result["structures"].values()])
        for case, result in results["cases"].items()
    }
    best, *worst = sorted(mean, key=lambda case: -mean[case])
    pictures = [base64.b64decode(part) for part in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert len(pictures) == 2 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    for case, picture in zip(reversed(worst), pictures, strict=True):
        assert f"<figcaption>{html.escape(case)}: mean Dice {mean[case]:.3f}" in page
        pixels = imread(io.BytesIO(picture))[..., :3]
        coloured = (pixels.max(-1) - pixels.min(-1) > 0.3).sum()
        assert coloured > 100, case  # contours
    assert f"<figcaption>{best}" not in page
    assert page.count("<svg") == 3 and "<script" not in page and "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded
    assert results["cases"][worst[0]]["image_sha256"] in page
    ellipsoid = results["means"]["ellipsoid"]["dice"]
    assert f"{ellipsoid['mean']:.3f} [{ellipsoid['low']:.3f}, {ellipsoid['high']:.3f}]" in page


def test_results_are_never_written_over(store: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("a.json", "a.png", "a.html"):
        (tmp_path / name).write_text("mine")
        assert run("evaluate", folder, "--store", store, "--out", tmp_path / "a.json") == 2
        assert run("evaluate", folder, "--adapter", store / "v0002", "--out", tmp_path / "a.json") == 2
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "b.json").write_text("mine")
    assert run("compare", 1, 2, folder, "--store", store, "--out", tmp_path / "b.json") == 2
    assert (tmp_path / "b.json").read_text() == "mine"


def test_a_learned_case_is_left_out_under_any_name_and_in_any_file(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_case(folder, "synthetic_005", "copy")
    image = nib.load(folder / "images" / "synthetic_005.nii.gz")
    nib.save(image, folder / "images" / "saved_again.nii")  # other bytes, the same voxels
    shutil.copy(folder / "labels" / "synthetic_005.nii.gz", folder / "labels" / "saved_again.nii.gz")
    out = tmp_path / "out.json"
    assert run("evaluate", folder, "--adapter", store / "v0002", "--out", out, "--pictures", 0) == 0
    assert "3 cases are left out" in printed(capsys)
    results = json.loads(out.read_text())
    assert sorted(results["left_out"]) == ["copy", "saved_again", "synthetic_005"]
    assert results["adapter"]["version"] is None
    assert not out.with_suffix(".png").exists()
    only = ("--cases", "copy", "saved_again")
    assert run("evaluate", folder, *only, "--adapter", store / "v0002") == 2
    assert "all cases were used in training" in capsys.readouterr().err


def test_a_structure_in_the_segmentation_only_has_no_distance_and_the_mean_says_so(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "labels" / "synthetic_007.nii.gz"
    label = nib.load(file)
    emptied = np.where(np.asarray(label.dataobj) == 1, 0, np.asarray(label.dataobj)).astype(np.uint8)
    nib.save(nib.Nifti1Image(emptied, label.affine, label.header), file)
    out = tmp_path / "out.json"
    assert run("evaluate", folder, "--adapter", store / "v0002", "--out", out) == 0
    text = printed(capsys)
    assert "1 missing" in text
    results = json.loads(out.read_text())
    figures = results["cases"]["synthetic_007"]["structures"]["ellipsoid"]
    assert figures == {"dice": 0.0, "hd95": None, "surface_dice": 0.0, "found_in": "prediction"}
    means = results["means"]["ellipsoid"]
    assert (means["dice"]["count"], means["hd95"]["count"], means["hd95_missing"]) == (3, 2, 1)
    assert means["hd95"]["low"] is None and "no interval from 2 cases" in means["hd95"]["note"]
    assert "*: no interval from 2 cases" in text


def test_two_versions_are_compared_on_the_cases_that_neither_has_learned(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared.json"
    assert run("compare", 2, store / "v0003", folder, "--store", store, "--out", out, "--device", "cpu") == 0
    text = printed(capsys)
    assert "2 cases are left out: one of the adapters has learned from them" in text
    assert "tube, surface Dice: no difference can be shown with 2 cases" in text
    assert "version 2" in text and "v0003" in text
    results = json.loads(out.read_text())
    assert set(results["cases"]) == {"synthetic_007", "synthetic_008"}
    assert (results["first"]["version"], results["second"]["version"]) == (2, None)

    # structures stand in another order in the second: each is compared with itself
    for number in (2, 3):
        single = tmp_path / f"{number}.json"
        cases = ("--cases", *results["cases"])
        assert run("evaluate", folder, "--store", store, "--version", number, "--out", single, *cases) == 0
        alone = json.loads(single.read_text())["cases"]
        for name, case in results["cases"].items():
            assert case["first" if number == 2 else "second"] == alone[name]["structures"]
    differences = [case["second"]["tube"]["dice"] - case["first"]["tube"]["dice"] for case in results["cases"].values()]
    assert results["comparisons"]["tube"]["dice"]["difference"]["mean"] == pytest.approx(np.mean(differences), abs=1e-4)


def test_an_adapter_that_is_clearly_better_is_said_to_be(
    store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):  # with the two unseen ones, six cases: as few as can show anything
        image = nib.load(folder / "images" / f"synthetic_00{7 + number % 2}.nii.gz")
        noise = np.random.default_rng(number).normal(0, 1, image.shape)
        nib.save(nib.Nifti1Image(image.get_fdata() + noise, image.affine), folder / "images" / f"new_{number}.nii.gz")
        label = folder / "labels" / f"synthetic_00{7 + number % 2}.nii.gz"
        shutil.copy(label, folder / "labels" / f"new_{number}.nii.gz")
    assert run("compare", 3, 2, folder, "--store", store, "--device", "cpu") == 0
    assert "ellipsoid, Dice: version 2 is better" in printed(capsys)
    assert run("compare", 2, 2, folder, "--store", store, "--device", "cpu") == 0
    text = printed(capsys)
    assert "no difference can be shown with 7 cases" in text and "is better" not in text


def test_mistakes_of_evaluation_are_one_line(
    store: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes: dict[str, tuple[object, ...]] = {
        "tolerance is -1": ("evaluate", folder, "--store", store, "--tolerance", "-1"),
        "tolerance is nan": ("compare", 1, 2, folder, "--store", store, "--tolerance", "nan"),
        "no version 9": ("compare", 1, 9, folder, "--store", store),
        "not an adapter folder": ("compare", 1, tmp_path, folder, "--store", store),
        "has no case x": ("compare", 1, 2, folder, "--store", store, "--cases", "x"),
    }
    for reason, arguments in mistakes.items():
        assert run(*arguments) == 2, reason
        message = capsys.readouterr().err.strip()
        assert message.count("\n") == 0 and reason in message, message
    (folder / "labels.json").write_text('{"1": "ellipsoid"}')
    assert run("compare", 1, 2, folder, "--store", store) == 2
    assert "has no label tube" in capsys.readouterr().err
