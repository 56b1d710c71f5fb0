"""``fm3d predict`` of every kind of task: what it is asked about, what it writes, and that fm3d evaluate reads it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from command import run

from fm3d_core.adaptation import FinetuneSettings, ImageCase, finetune_images, untrained_adapter
from fm3d_core.tasks import ClassificationTask, RegionsTask, SegmentationTask
from fm3d_core.volumes import Preprocessing, read_volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "volumes"))
from test_dicom_segmentation import write_series

QUICK = FinetuneSettings(method="linear_probe", steps=30, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 12 images with a small or a large ball; the last four are test cases."""
    folder = tmp_path_factory.mktemp("balls")
    generator = np.random.default_rng(0)
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.arange(24) - 12.0] * 3, indexing="ij")))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "size"])
        for number in range(12):
            array = generator.random((24, 24, 24)) + 4 * (distance < (4, 9)[number % 2])
            nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), folder / f"c{number:02d}.nii.gz")
            writer.writerow(
                [f"c{number:02d}.nii.gz", "test" if number > 7 else "training", ("small", "large")[number % 2]]
            )
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def classifier(balls: Path) -> Path:
    task = ClassificationTask(("small", "large"), "size", preprocessing=Preprocessing(), crop=(24, 24, 24))
    cases = [ImageCase(f"c{n:02d}", (balls.parent / f"c{n:02d}.nii.gz",), (float(n % 2),)) for n in range(8)]
    adapter = finetune_images(cases, task, QUICK)
    return adapter.save(balls.parent / "classifier")


def test_a_list_is_answered_in_files_that_evaluation_reads(
    balls: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("predict", balls, "--adapter", classifier, "--out", out, "--device", "cpu") == 0
    assert "c01: large" in capsys.readouterr().out
    with (out / "predictions.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    content = json.loads((out / "predictions.json").read_text())
    assert len(rows) == len(content["cases"]) == 12 and content["task"]["kind"] == "classification"
    for name, row in rows.items():
        answer = content["cases"][name]["answer"]
        assert row["class"] == answer["class"]
        assert float(row["probability large"]) == pytest.approx(answer["probabilities"]["large"], abs=1e-4)
        assert len(content["cases"][name]["image_sha256"]) == 64
    assert content["run"]["configuration"]["device"] == "cpu"
    assert run("evaluate", balls, "--predictions", out / "predictions.json", "--out", tmp_path / "evaluated") == 0
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert results["figures"]["accuracy"]["mean"] == 1 and set(results["cases"]) == {"c08", "c09", "c10", "c11"}
    assert run("predict", balls, "--adapter", classifier, "--out", out) == 2 and "exists" in capsys.readouterr().err
    assert run("predict", balls, "--adapter", classifier, "--out", tmp_path / "q", "--quality") == 2


def test_flips_are_averaged_and_one_file_is_enough(balls: Path, classifier: Path, tmp_path: Path) -> None:
    image, found = balls.parent / "c01.nii.gz", []
    for flips in ("no", "yes"):
        out = tmp_path / flips
        assert run("predict", image, "--adapter", classifier, "--out", out, "--device", "cpu", "--flips", flips) == 0
        found.append(json.loads((out / "predictions.json").read_text())["cases"]["c01"]["activated"])
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], abs=0.2)


def test_an_adapter_answers_a_list_in_evaluation(balls: Path, classifier: Path, tmp_path: Path) -> None:
    assert run("evaluate", balls, "--adapter", classifier, "--out", tmp_path / "a", "--device", "cpu") == 0
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert set(results["cases"]) == {"c08", "c09", "c10", "c11"} and results["figures"]["accuracy"]["mean"] == 1
    assert results["adapter"]["card"]["task"]["kind"] == "classification"
    # what it has learned from does not count
    assert run("evaluate", balls, "--adapter", classifier, "--split", "training") == 2


def test_regions_overlap_in_masks_of_their_own_and_in_a_dicom_seg(tmp_path: Path) -> None:
    task = RegionsTask((("whole", (1, 2)), ("core", (2,))), Preprocessing(crop_foreground=False))
    adapter = untrained_adapter(task, FinetuneSettings(method="linear_probe", head="linear", device="cpu"))
    adapter.save(tmp_path / "adapter")
    series = write_series(tmp_path / "series", [1, 0, 0], [0, 1, 0])
    common = ("predict", series, "--adapter", tmp_path / "adapter", "--device", "cpu", "--out", tmp_path / "out")
    assert run(*common) == 0 and run(*common, "--suffix", ".dcm") == 0
    label, whole, core = (
        np.asarray(nib.load(tmp_path / "out" / f"series{ending}.nii.gz").dataobj) for ending in ("", "_whole", "_core")
    )
    np.testing.assert_array_equal(label, np.where(core == 1, 2, whole))
    dataset = pydicom.dcmread(tmp_path / "out" / "series.dcm")
    frames = dataset.pixel_array.reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns)
    assert [str(each.SegmentLabel) for each in dataset.SegmentSequence] == ["whole", "core"]
    for number, mask in enumerate((whole, core), start=1):
        groups = dataset.PerFrameFunctionalGroupsSequence
        mine = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number for group in groups]
        assert frames[mine].sum() == mask.sum()
    assert whole.any() or core.any()


def test_regions_come_with_their_uncertainty_but_not_with_a_quality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = RegionsTask((("whole", (1, 2)), ("core", (2,))), Preprocessing(crop_foreground=False))
    settings = FinetuneSettings(method="linear_probe", head="linear", device="cpu")
    untrained_adapter(task, settings).save(tmp_path / "adapter")
    image = np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii.gz")
    common = ("predict", tmp_path / "a.nii.gz", "--adapter", tmp_path / "adapter", "--device", "cpu")
    out = tmp_path / "out"
    assert run(*common, "--out", out, "--uncertainty", "--variants", 1) == 0
    names = {"a.nii.gz", "a_whole.nii.gz", "a_core.nii.gz", "a_uncertainty.nii.gz"}
    assert names <= {path.name for path in out.iterdir()}
    unsure = np.asarray(nib.load(out / "a_uncertainty.nii.gz").dataobj)
    assert unsure.shape == image.shape and unsure.min() >= 0 and 0.5 < unsure.max() <= 1, "it has learned nothing"
    assert run(*common, "--out", tmp_path / "again", "--quality") == 2
    assert "exclude each other" in " ".join("".join(capsys.readouterr()).split())


def test_a_dicom_seg_needs_a_series(balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = untrained_adapter(SegmentationTask(("a",)), FinetuneSettings(method="linear_probe", device="cpu"))
    adapter.save(tmp_path / "adapter")
    image = balls.parent / "c00.nii.gz"
    assert read_volume(image).shape == (24, 24, 24)
    common = ("--adapter", tmp_path / "adapter", "--out", tmp_path / "out", "--device", "cpu")
    assert run("predict", image, *common, "--suffix", ".dcm") == 2
    assert "no DICOM series" in capsys.readouterr().err


def test_regions_are_evaluated_one_by_one_with_the_union_of_their_values(tmp_path: Path) -> None:
    task = RegionsTask((("whole", (1, 2)), ("core", (2,))), Preprocessing(crop_foreground=False))
    adapter = untrained_adapter(task, FinetuneSettings(method="linear_probe", head="linear", device="cpu"))
    adapter.save(tmp_path / "adapter")
    generator = np.random.default_rng(0)
    truths = {}
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for name in ("a", "b", "c"):
        image = generator.normal(0, 1, (16, 16, 16)).astype(np.float32)
        truths[name] = generator.integers(0, 3, (16, 16, 16)).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "data" / "images" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(truths[name], np.eye(4)), tmp_path / "data" / "labels" / f"{name}.nii.gz")
    common = ("--adapter", tmp_path / "adapter", "--device", "cpu")
    assert run("evaluate", tmp_path / "data", *common, "--out", tmp_path / "out", "--worst", 1) == 0
    assert run("predict", tmp_path / "data", *common, "--out", tmp_path / "found") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for name, truth in truths.items():
        for region, true in (("whole", truth > 0), ("core", truth == 2)):
            found = np.asarray(nib.load(tmp_path / "found" / f"{name}_{region}.nii.gz").dataobj) > 0
            dice = 2 * (found & true).sum() / (found.sum() + true.sum())
            assert results["cases"][name]["structures"][region]["dice"] == pytest.approx(dice, abs=1e-4)
    assert (tmp_path / "out" / "report.html").read_text().count('<img src="data:image/png') == 1
