"""Recipes and tasks on real volumes, a few steps each; skipped where ../shared/data is absent."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fm3d_core.recipes import read_recipe
from fm3d_core.recipes.checking import check_recipe
from fm3d_core.recipes.running import run_recipe
from fm3d_core.volumes import read_data_list

DATA = next(
    (
        parent / "shared" / "data"
        for parent in Path(__file__).resolve().parents
        if (parent / "shared" / "data").is_dir()
    ),
    Path("shared/data"),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "other").is_dir(), reason=f"{DATA} is absent"),
]
SMALL = ("network.backbone=residual_unet_small", "network.weights=null", "network.rank=null", "network.alpha=null")
PROBE = (*SMALL, "network.method=linear_probe", "network.head=linear", "training.warm_up=0", "training.iterations=5")


def _list(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Every fourth for validation, every fourth for test."""
    parts = {"training": [row for i, row in enumerate(rows) if i % 4 < 2]}
    parts |= {"validation": rows[2::4], "test": rows[3::4]}
    path.write_text(json.dumps(parts))
    return path


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_left_atrium_is_learned_by_its_recipe(tmp_path: Path) -> None:
    folder = DATA / "other" / "la_mr"
    names = sorted(path.name for path in (folder / "images").iterdir())[:8]
    rows = [{"image": str(folder / "images" / name), "label": str(folder / "labels" / name)} for name in names]
    listed = read_data_list(_list(tmp_path / "list.json", rows))
    recipe = read_recipe(
        "LA_SEG",
        (
            *SMALL,
            "label_values={left atrium: 1}",
            "input.spacing=[2, 2, 2]",
            "crop=[48, 48, 48]",
            "network.head=linear",
            "network.method=full",
            "training.learning_rate=0.002",
            "training.batch_size=2",
            "training.epochs=1",
            "training.iterations=40",
            "training.warm_up=4",
            "validation.every=20",
            "test.overlap=0.25",
        ),
    )
    assert [each.text for each in check_recipe(recipe, listed) if each.wrong] == []
    run = run_recipe(recipe, listed, given={"device": "cpu"})
    assert run.test["dice"] > 0.3  # of 40 steps on 4 volumes


@pytest.mark.parametrize(
    ("name", "overrides", "figure"),
    [
        ("MRI_UPenn_GBM", ("task.event_column=event",), "c_index"),
        ("COVID_CT_MD", ("task.labels=[Adenocarcinoma, SquamousCellCarcinoma]", "task.column=histology"), "auc"),
        ("MRI_openneuro_age", (), "mae"),
    ],
)
def test_lung_cancer_survival_histology_and_age(
    name: str, overrides: tuple[str, ...], figure: str, tmp_path: Path
) -> None:
    folder = DATA / "other" / "nsclc_ct"
    rows = [
        {**row, "name": row["id"], "image": str(folder / "images" / f"{row['id']}.nii.gz")}
        for row in _table(folder / "clinical.csv")[:48]
    ]
    recipe = read_recipe(name, (*PROBE, "crop=[40, 40, 40]", "training.epochs=20", *overrides))
    run = run_recipe(recipe, read_data_list(_list(tmp_path / "list.json", rows)), given={"device": "cpu"})
    assert math.isfinite(run.test[figure]) and f"validation_{figure}" in run.adapters[0].card.training


def test_heart_disease_is_classified_and_the_ejection_fraction_measured(tmp_path: Path) -> None:
    folder = DATA / "other" / "acdc_mr"
    rows = []
    for row in _table(folder / "patients.csv"):
        images = sorted((folder / "images").glob(f"{row['patient']}*"))
        if images:
            rows.append({**row, "name": row["patient"], "image": str(images[0])})
    rows = rows[::2]
    listed = read_data_list(_list(tmp_path / "list.json", rows))
    common = (*PROBE, "crop=[48, 48, 16]", "training.epochs=10", "input.crop_foreground=false")
    groups = ("task.labels=[DCM, HCM, MINF, NOR, RV]", "task.column=group")
    run = run_recipe(read_recipe("ICBM_age", (*common, *groups)), listed, given={"device": "cpu"})
    assert 0 <= run.test["balanced_accuracy"] <= 1
    value = ("task.name=ejection_fraction", "task.unit=", "input.resize=[1, 1, 1]", "training.augmentation=none")
    run = run_recipe(read_recipe("MRI_openneuro_age", (*common, *value)), listed, given={"device": "cpu"})
    assert run.test["mae"] < 0.4
