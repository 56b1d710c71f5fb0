"""Every recipe end to end on made volumes: its own channels, classes, label values; steps, network and crop cut."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_cases import quick_overrides, write_cases

from fm3d_core.adaptation import Adapter
from fm3d_core.adaptation.plan import Schedule
from fm3d_core.errors import SettingsError
from fm3d_core.recipes import read_recipe, shipped_recipes
from fm3d_core.recipes.running import run_recipe
from fm3d_core.tasks import SegmentationTask, SurvivalTask
from fm3d_core.volumes import read_data_list

# the published grid of recipes.md: what must not drift
PUBLISHED = {
    "CT_abdomen_lesion_seg": ((1.2, 1.2, 1.5), 2, 1e-4, 30_000, 3000),
    "CT_abdomen_organ_seg": ((1.5, 1.5, 2.0), 14, 1e-4, 30_000, 3000),
    "CT_lung_lesion_seg": ((1.0, 1.0, 1.5), 2, 1e-4, 30_000, 3000),
    "CT_MSWAL_seg": ((1.0, 1.0, 1.25), 8, 1e-3, 30_000, 3000),
    "MRI_abdomen_seg": ((1.25, 1.25, 1.25), 14, 3e-4, 30_000, 3000),
    "MRI_ATLAS_seg": ((1.5, 1.5, 1.5), 2, 3e-4, 30_000, 3000),
    "MRI_EMIDEC": ((1.5, 1.5, 1.0), 5, 1e-4, 30_000, 3000),
    "CT_abdomen_disease_classify": ((2.0, 2.0, 2.0), 24, 1e-3, 9000, 1800),
    "MRI_ABIDEII": ((1.25, 1.25, 1.25), 2, 5e-4, 4500, 600),
    "MRI_endo_classify": ((1.5, 1.5, 2.0), 2, 1e-3, 4500, 600),
    "MRI_openneuro_age": (None, 1, 5e-3, 30_000, 1800),
    "MRI_openneuro_phen": (None, 4, 5e-4, 4500, 600),
    "MRI_UPenn_GBM": (None, 3, 5e-3, 4500, 600),
    "BraTS2021": ((1.0, 1.0, 1.0), 3, 1e-4, 30_000, 3000),
    "BTCV": ((1.5, 1.5, 2.0), 14, 1e-4, 30_000, 3000),
    "LA_SEG": ((1.0, 1.0, 0.5), 2, 1e-4, 30_000, 3000),
    "TDSC_ABUS": ((1.0, 1.0, 1.0), 2, 1e-4, 30_000, 3000),
    "ICBM_age": (None, 4, 1e-3, 12_500, 0),
    "COVID_CT_MD": (None, 3, 1e-3, 12_500, 0),
    "FSEFT_TotalSegmentator_known": ((1.5, 1.5, 1.5), 2, 1e-4, 1990, 0),
    "FSEFT_TotalSegmentator_novel": ((1.5, 1.5, 1.5), 2, 1e-4, 1990, 0),
    "FSEFT_FLARE22_selected": ((1.5, 1.5, 1.5), 10, 1e-4, 1990, 0),
}
SLOW = ("FSEFT_",)  # Swin UNETR needs crops of 64 voxels


def test_every_published_recipe_is_there_with_its_numbers() -> None:
    assert set(shipped_recipes()) == set(PUBLISHED)
    for name, (spacing, classes, rate, steps, warm_up) in PUBLISHED.items():
        recipe = read_recipe(name)
        settings = recipe.settings(10)
        found = (recipe.input.spacing, recipe.built_task().classes, settings.learning_rate, settings.steps)
        assert (*found, recipe.training.warm_up) == (spacing, classes, rate, steps, warm_up), name
        assert recipe.source and recipe.about


def _parameters() -> list:
    return [pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW) else ()) for name in shipped_recipes()]


@pytest.mark.parametrize("name", _parameters())
def test_a_recipe_runs_end_to_end(name: str, tmp_path: Path) -> None:
    published = read_recipe(name)
    recipe = read_recipe(name, quick_overrides(published))
    whole = published.built_task().whole_volume
    training, others = (4, 2) if whole else (3 if published.training.shots else 2, 1)
    path = write_cases(tmp_path, recipe, {"training": training, "validation": others, "test": others})
    run = run_recipe(recipe, read_data_list(path), given={"device": "cpu"})
    (adapter,) = run.adapters
    assert run.left_out == () and adapter.card.left_out == () and adapter.card.training["steps"] == 2
    loaded = Adapter.load(adapter.save(tmp_path / "adapter"))
    assert loaded.card.task.kind == published.built_task().kind and loaded.card.settings["recipe"]["name"] == name
    assert loaded.build_network() is not None
    selected = published.validation.selected_by if published.validation else ()
    measured = [f"validation_{each}" for each in selected if f"validation_{each}" in adapter.card.training]
    assert bool(measured) == bool(selected)
    assert run.test and all(math.isfinite(value) or math.isnan(value) for value in run.test.values())


def test_folds_are_trained_one_by_one_and_their_answers_averaged(tmp_path: Path) -> None:
    recipe = read_recipe("MRI_endo_classify", quick_overrides(read_recipe("MRI_endo_classify")))
    listed = read_data_list(write_cases(tmp_path, recipe, {"training": 6, "test": 2})).in_folds(3)
    run = run_recipe(recipe, listed, folds=listed.folds, given={"device": "cpu"})
    assert [adapter.card.settings["fold"] for adapter in run.adapters] == [0, 1, 2] == list(run.folds)
    assert all(len(adapter.card.cases) == 4 for adapter in run.adapters) and "balanced_accuracy" in run.test


def test_a_fraction_of_the_training_cases_is_used(tmp_path: Path) -> None:
    recipe = read_recipe("MRI_openneuro_age", quick_overrides(read_recipe("MRI_openneuro_age")))
    listed = read_data_list(write_cases(tmp_path, recipe, {"training": 6}))
    run = run_recipe(recipe, listed, fraction=0.5, given={"device": "cpu"})
    assert len(run.adapters[0].card.cases) == 3 and run.adapters[0].card.settings["fraction"] == 0.5
    assert run.test == {} and "validation_mae" not in run.adapters[0].card.training


@pytest.mark.parametrize(
    ("name", "rank", "scale"),
    [("MRI_openneuro_age", 2 * 3, 8 / 3), ("FSEFT_TotalSegmentator_novel", 3, 8 / 3)],  # query and value have one each
)
def test_rank_and_alpha_of_a_recipe_are_what_is_set(name: str, rank: int, scale: float, tmp_path: Path) -> None:
    changed = ("network.rank=3", "network.alpha=8")
    recipe = read_recipe(name, (*quick_overrides(read_recipe(name)), *changed, "training.iterations=1"))
    listed = read_data_list(write_cases(tmp_path, recipe, {"training": 3}))
    (adapter,) = run_recipe(recipe, listed, given={"device": "cpu"}).adapters
    shapes = {tensor.shape[0] for key, tensor in adapter.tensors.items() if "lora_A" in key}
    loaded = Adapter.load(adapter.save(tmp_path / "adapter"))
    assert shapes == {rank} and (loaded.card.rank, loaded.card.alpha) == (3, 8)
    layers = [each for each in loaded.build_network().modules() if hasattr(each, "scaling") and each.scaling]
    assert layers and all(each.scaling["default"] == pytest.approx(scale) for each in layers)


def test_another_method_than_the_recipes_has_its_own_rank() -> None:
    recipe = read_recipe("MRI_openneuro_age")
    assert recipe.settings(4).rank == 16 and recipe.settings(4, method="linear_probe").rank is None
    assert recipe.settings(4, method="lora", rank=2).rank == 2


def test_a_recipe_that_is_cut_warms_up_and_looks_as_much_sooner() -> None:
    recipe = read_recipe("LA_SEG").cut_to(300, cases=80)  # of 30000 steps
    assert recipe.training.warm_up == 30 and recipe.validation is not None and recipe.validation.every == 6
    assert read_recipe("LA_SEG").cut_to(10**6, cases=80) == read_recipe("LA_SEG")


def test_a_training_that_is_stopped_keeps_the_best_weights_so_far(tmp_path: Path) -> None:
    recipe = read_recipe("MRI_UPenn_GBM", quick_overrides(read_recipe("MRI_UPenn_GBM")))
    assert recipe.validation is not None
    recipe = replace(
        recipe,
        validation=replace(recipe.validation, every=1),
        training=replace(recipe.training, iterations=1000),
        network=replace(recipe.network, method="linear_probe", head="linear", rank=None, alpha=None),
    )
    listed = read_data_list(write_cases(tmp_path, recipe, {"training": 6, "validation": 3, "test": 3}))
    steps: list[int] = []

    def note(event: object) -> None:
        if event.stage == "training" and event.metrics:  # type: ignore[attr-defined]
            steps.append(event.step)  # type: ignore[attr-defined]

    run = run_recipe(recipe, listed, given={"device": "cpu"}, progress=note, should_stop=lambda: len(steps) >= 3)
    training, task = run.adapters[0].card.training, run.adapters[0].card.task
    assert training["steps"] == 3 and 1 <= training["best_step"] <= 3 and "validation_c_index" in training
    assert any("was cancelled after 3 steps" in note for note in run.adapters[0].card.notes)
    assert run.test == {} and isinstance(task, SurvivalTask) and task.edges is not None


def test_the_learning_rate_rises_in_a_straight_line_and_falls_as_a_cosine() -> None:
    schedule = Schedule(warm_up=10, decay="cosine")
    factors = [schedule.factor(step, 110, step / 110) for step in range(110)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1) and factors[10] == pytest.approx(1)
    assert factors[60] == pytest.approx(0.5) and factors[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[-1] < 1e-3
    assert Schedule(warm_up=0, decay="cosine").factor(0, 10, 0) == 1


def test_a_recipe_of_ones_own_is_a_file_and_a_variant_changes_some_values(tmp_path: Path) -> None:
    linear = read_recipe("LA_SEG:linear")
    assert linear.network.head == "linear" and linear.training.learning_rate == 1e-3 and linear.name == "LA_SEG:linear"
    own = tmp_path / "own.yaml"
    own.write_text(shipped_recipes()["LA_SEG"].read_text())
    recipe = read_recipe(own, ("task.labels=[ventricle]", "label_values=null", "training.epochs=3"))
    task = recipe.built_task()
    assert isinstance(task, SegmentationTask) and task.labels == ("ventricle",) and recipe.settings(5).steps == 900
    dumped = tmp_path / "dumped.json"
    dumped.write_text(json.dumps(recipe.to_dict()))
    assert read_recipe(dumped) == recipe


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("nothing", "", r"no recipe 'nothing'.*LA_SEG"),
        ("LA_SEG:small", "", r"no variant small.*linear"),
        ("LA_SEG", "training.epoch=2", r"training\.epoch: is not a known key.*epochs"),
        ("LA_SEG", "training.epochs=many", r"training\.epochs"),
        ("LA_SEG", "training.epochs=0", "too small"),
        ("LA_SEG", "training.augmentation=wild", "unknown augmentation 'wild'"),
        ("LA_SEG", "network.backbone=vit_gigantic", "unknown backbone"),
        ("LA_SEG", "network.head=round", "unknown head"),
        ("LA_SEG", "task.kind=magic", "unknown kind of task"),
        ("LA_SEG", "task.labels=[]", "at least one named structure"),
        ("LA_SEG", "label_values={other: 255}", "other structures"),
        ("LA_SEG", "input.resize=[1, 1, 1]", "without a spacing"),
        ("LA_SEG", "test.overlap=1", "overlap is not a share"),
        ("CT_lung_lesion_seg", "network.method=full", r"rank is 16, but method full has none"),
        ("CT_lung_lesion_seg", "network.rank=0", r"rank is 0"),
    ],
)
def test_what_a_recipe_cannot_be_is_refused_by_its_key(name: str, override: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_recipe(name, (override,) if override else ())
