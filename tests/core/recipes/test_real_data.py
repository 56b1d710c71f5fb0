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


ATRIUM = ("label_values={left atrium: 1}", "input.spacing=[2, 2, 2]")
HU_ON_3_MM = ("input.spacing=[3, 3, 4]", "crop=[64, 64, 32]")
ORGANS_OF_CHAOS = ("task.labels=[liver, right kidney, left kidney, spleen]", "input.spacing=[3, 3, 6]")
# 2015: the necrosis is 1, the part that does not enhance is 3; two of the four sequences are there
TUMOUR_OF_2015 = (
    "task.channels=2",
    "task.regions={WT: [1, 2, 3, 4], TC: [1, 3, 4], ET: [4]}",
    "input.spacing=[3, 3, 3]",
)


@pytest.mark.parametrize(
    ("name", "folder", "channels", "count", "overrides", "figure", "least"),
    [
        ("LA_SEG", "other/la_mr", (), 8, (*ATRIUM, "crop=[48, 48, 48]"), "dice", 0.3),
        ("BTCV", "abdomen/btcv_ct", (), 8, HU_ON_3_MM, "dice liver", 0.25),
        ("MRI_abdomen_seg", "abdomen/chaos_mr_t2", (), 8, (*ORGANS_OF_CHAOS, "crop=[64, 64, 16]"), "dice", 0.2),
        ("BraTS2021", "other/brats_mr", ("_t1c", "_flair"), 4, (*TUMOUR_OF_2015, "crop=[32, 32, 32]"), "dice WT", 0.1),
    ],
)
def test_structures_are_learned_by_their_recipe(
    name: str,
    folder: str,
    channels: tuple[str, ...],
    count: int,
    overrides: tuple[str, ...],
    figure: str,
    least: float,
    tmp_path: Path,
) -> None:
    images, labels = DATA / folder / "images", DATA / folder / "labels"
    rows = []
    for label in sorted(labels.iterdir())[:count]:
        case = label.name.removesuffix(".nii.gz")
        files = [str(images / f"{case}{channel}.nii.gz") for channel in channels or ("",)]
        rows.append({"name": case, "image": files if channels else files[0], "label": str(label)})
    listed = read_data_list(_list(tmp_path / "list.json", rows))
    short = ("training.learning_rate=0.002", "training.batch_size=2", "training.crops_per_volume=1")
    short += ("training.epochs=1", "training.iterations=40", "training.warm_up=4", "training.augmentation=none")
    fast = ("network.head=linear", "network.method=full", "validation.every=20", "test.overlap=0.25")
    recipe = read_recipe(name, (*SMALL, *short, *fast, *overrides))
    assert [each.text for each in check_recipe(recipe, listed) if each.wrong] == []
    run = run_recipe(recipe, listed, given={"device": "cpu"})
    assert run.left_out == () and run.test[figure] > least  # of 40 steps on 2 to 4 volumes


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
