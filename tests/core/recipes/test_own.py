"""``fm3d finetune LIST --task``: every kind of task from a list without a recipe."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command import run

from fm3d_core.adaptation import AdapterStore

QUICK = ("--backbone", "residual_unet_small", "--weights", "random", "--steps", "2", "--device", "cpu")
ROWS = {
    "diagnosis": lambda index: ("healthy", "ill")[index % 2],
    "age": lambda index: 40 + 7 * index,
    "days": lambda index: 100 + 50 * index,
    "event": lambda index: int(index != 3),
    "nodule": lambda index: index % 2,
    "effusion": lambda index: int(index % 3 == 0),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images in CSV: six to learn from, two to validate on, two to test on."""
    folder, random = tmp_path_factory.mktemp("list"), np.random.default_rng(0)
    path = folder / "cases.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", *ROWS])
        for index in range(10):
            array = random.random((14, 13, 12)) + 3 * (index % 2)
            array[:2] = 0
            name = f"case_{index}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.diag([2, 2, 2, 1.0])), folder / name)
            split = "training" if index < 6 else "validation" if index < 8 else "test"
            writer.writerow([name, split, *(value(index) for value in ROWS.values())])
    return path


@pytest.mark.parametrize(
    ("kind", "target", "figure"),
    [
        ("classification", ("diagnosis",), "balanced_accuracy"),
        ("multilabel", ("nodule", "effusion"), "map"),
        ("regression", ("age",), "mae"),
        ("survival", ("days", "event"), "c_index"),
    ],
)
def test_every_kind_is_learned_from_a_list_and_measured(
    kind: str, target: tuple[str, ...], figure: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    asked = ("--task", kind, "--target", *target, "--method", "linear_probe", "--store", str(store))
    assert run("finetune", str(table), *asked, *QUICK) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"({kind}) from 6 volumes" in said and "Version 1 after 2 steps" in said
    assert f"{figure} " in said.split("Test:")[1]
    card = AdapterStore(store).load(1).card
    assert card.task.kind == kind and len(card.cases) == 6 and "best_step" in card.training
    assert "recipe" not in card.settings and any("resampled" in note for note in card.notes)


def test_regions_that_overlap_are_learned_from_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random, content = np.random.default_rng(0), []
    for index in range(2):
        label = np.zeros((24, 22, 20), np.uint8)
        label[4:16, 4:16, 4:14], label[7:12, 7:12, 6:11] = 2, 1
        for name, array in (("image", random.random(label.shape) + label), ("label", label)):
            path = tmp_path / f"{name}_{index}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.diag([2, 2, 2, 1.0])), path)
        content.append({"image": f"image_{index}.nii.gz", "label": f"label_{index}.nii.gz"})
    (tmp_path / "cases.json").write_text(json.dumps({"training": content[:1], "validation": content[1:]}))
    (tmp_path / "task.yaml").write_text("kind: regions\nregions: {whole: [1, 2], core: [1]}\n")
    store = tmp_path / "store"
    asked = ("--task", str(tmp_path / "task.yaml"), "--store", str(store))
    assert run("finetune", str(tmp_path / "cases.json"), *asked, *QUICK) == 0, capsys.readouterr().err
    card = AdapterStore(store).load(1).card
    assert card.task.kind == "regions" and card.task.labels == ("whole", "core") and "validation_dice" in card.training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "not what is asked"),
        (("--task", "classification"), "needs the columns"),
        (("--task", "segmentation"), "needs its structures"),
        (("--task", "survival", "--target", "days"), "survival has 2 columns"),
        (("--target", "colour"), "no case has colour"),
        (("--target", "diagnosis", "--shots", "3"), "--shots does not go with a list"),
        (("--target", "diagnosis", "--set", "crop=3"), "--set goes with --recipe"),
        (("--target", "diagnosis", "--preset", "fast"), "--preset does not go with a list"),
    ],
)
def test_what_does_not_go_is_one_line(
    options: tuple[str, ...], said: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("finetune", str(table), *options, "--store", str(tmp_path)) == 2
    error = " ".join("".join(capsys.readouterr()).split())
    assert said in error and "Traceback" not in error
