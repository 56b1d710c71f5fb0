"""The dry run of a recipe says what is wrong with a list, case by case; and the commands that go with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command import run
from made_cases import quick_overrides, write_cases

from fm3d_core.adaptation import AdapterStore
from fm3d_core.recipes import read_recipe
from fm3d_core.recipes.checking import check_recipe
from fm3d_core.volumes import read_data_list

Change = Callable[[Path, dict[str, Any]], None]


def _wrong(name: str, folder: Path, change: Change, count: int = 4) -> list[str]:
    """What is found wrong after a list of made cases was changed."""
    recipe = read_recipe(name, quick_overrides(read_recipe(name)))
    path = write_cases(folder, recipe, {"training": count, "validation": 2, "test": 1})
    content = json.loads(path.read_text())
    change(folder, content)
    path.write_text(json.dumps(content))
    return [each.text for each in check_recipe(recipe, read_data_list(path)) if each.wrong]


@pytest.mark.parametrize("name", ["BraTS2021", "MRI_EMIDEC", "CT_abdomen_disease_classify", "MRI_UPenn_GBM"])
def test_a_list_that_fits_is_found_right(name: str, tmp_path: Path) -> None:
    assert _wrong(name, tmp_path, lambda folder, content: None) == []


def _relabel(value: int) -> Change:
    def change(folder: Path, content: dict[str, Any]) -> None:
        path = folder / content["training"][0]["label"]
        image = nibabel.load(path)
        array = np.asarray(image.dataobj).copy()
        array[0, 0, 0] = value
        nibabel.save(nibabel.Nifti1Image(array, image.affine), path)

    return change


def _drop(field: str) -> Change:
    return lambda folder, content: content["training"][0].pop(field) and None


def _put(field: str, value: object) -> Change:
    return lambda folder, content: content["training"][0].update({field: value})


def _all(field: str, value: object) -> Change:
    return lambda folder, content: [case.update({field: value}) for case in content["training"]] and None


def _missing_file(folder: Path, content: dict[str, Any]) -> None:
    (folder / content["validation"][1]["image"]).unlink()


def _far_away(folder: Path, content: dict[str, Any]) -> None:
    path = folder / content["training"][0]["image"][2]
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] = 500
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)


def _one_file(folder: Path, content: dict[str, Any]) -> None:
    content["training"][0]["image"].pop()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("LA_SEG", _relabel(3), "training: training_0: *unknown label values 3*Known are 0 (background), 255"),
        ("LA_SEG", _missing_file, "validation: validation_1: *does not exist"),
        ("LA_SEG", _drop("label"), "training: training_0: has no label file"),
        ("LA_SEG", _put("label", 1), "training: training_0: has no label file"),
        ("BraTS2021", _one_file, "training: training_0_0: *has 3 image files, 4 channels are expected"),
        ("BraTS2021", _far_away, "training: training_0_0: *shows another part of the body"),
        ("MRI_EMIDEC", _drop("class"), "training: training_0: has no class"),
        ("MRI_EMIDEC", _all("class", "N"), "class P: no training case"),
        ("MRI_ABIDEII", _put("label", "Q"), "training: training_0: label is 'Q', which is no class"),
        ("MRI_ABIDEII", _put("label", 7), "training: training_0: label is 7, which is no class"),
        ("MRI_openneuro_phen", _all("label", 0), "class BIPOLAR: no training case"),
        ("MRI_openneuro_age", _put("age", "NaN"), "training: training_0: has no age"),
        ("MRI_openneuro_age", _all("age", 60), "age: 60 to 60, mean 60.00, sd 0.00"),
        ("CT_abdomen_disease_classify", _all("label", [1] + [0] * 23), "finding finding 2: no training case shows it"),
        ("MRI_UPenn_GBM", _put("survival_days", -3), "training: training_0: survival_days is -3"),
    ],
)
def test_what_does_not_fit_is_said(name: str, change: Change, said: str, tmp_path: Path) -> None:
    parts = said.split("*")
    found = _wrong(name, tmp_path, change)
    assert any(all(part in text for part in parts) for text in found), found


def test_a_structure_that_is_never_drawn_is_named(tmp_path: Path) -> None:
    def erase(folder: Path, content: dict[str, Any]) -> None:
        for case in content["training"]:
            image = nibabel.load(folder / case["label"])
            array = np.asarray(image.dataobj).copy()
            array[array == 4] = 1
            nibabel.save(nibabel.Nifti1Image(array, image.affine), folder / case["label"])

    assert "label 4 (value 4) is in none of 4 training cases" in _wrong("BraTS2021", tmp_path, erase)


def _sets(name: str) -> list[str]:
    return [part for override in quick_overrides(read_recipe(name)) for part in ("--set", override)]


def test_the_commands_list_show_check_and_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "list") == 0 and run("recipes") == 0
    assert run("recipes", "show", "LA_SEG", "--set", "training.epochs=7") == 0
    assert "epochs: 7" in capsys.readouterr().out
    name = "MRI_ABIDEII"
    recipe = read_recipe(name, quick_overrides(read_recipe(name)))
    path = write_cases(tmp_path, recipe, {"training": 4, "validation": 2, "test": 2})
    assert run("recipes", "check", name, "--data", path, *_sets(name)) == 0
    assert "classes: control 2, autism 2" in capsys.readouterr().out
    store = tmp_path / "store"
    common = ("finetune", "--recipe", name, "--data", path, "--device", "cpu", "--store", store, *_sets(name))
    assert run(*common) == 0
    printed = capsys.readouterr().out
    assert "Version 1 after 2 steps" in printed and "Test: accuracy" in printed
    assert "Published: balanced accuracy 0.6439, validation" in printed
    assert AdapterStore(store).load().card.task.labels == ("control", "autism")
    assert run(*common, "--folds", 2, "--fraction", 1, "--steps", 1) == 0
    assert "mean of 2 folds" in capsys.readouterr().out and len(AdapterStore(store).versions()) == 3


def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe("MRI_ABIDEII", quick_overrides(read_recipe("MRI_ABIDEII")))
    path = write_cases(tmp_path, recipe, {"training": 2})
    for arguments, said in (
        (("recipes", "check", "MRI_ABIDEII"), "check needs a list of cases"),
        (("recipes", "show"), "show needs a recipe"),
        (("recipes", "check", "LA_SEG", "--data", path, *_sets("LA_SEG")), "do not fit LA_SEG"),
        (("finetune", "--recipe", "MRI_ABIDEII"), "no data are given"),
        (("finetune", "--recipe", "MRI_ABIDEII", "--data", path, "--shots", 2), "--shots does not go with --recipe"),
        (("finetune", path.parent, "--fraction", 0.5), "--fraction goes with --recipe"),
        (("finetune", "--recipe", "MRI_ABIDEII", "--data", tmp_path / "none.json"), "is no list of cases"),
    ):
        assert run(*arguments) == 2, arguments
        assert said in " ".join("".join(capsys.readouterr()).split()), arguments
