"""benchmarks/few_shot.py: no patient on both sides, equal budgets, rows that can be gone on with."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import few_shot
import few_shot_row
import few_shot_sets
from few_shot_row import Row
from few_shot_table import paired_table_of, table_of

ANCHOR = ["hippocampus_001", "hippocampus_003", "hippocampus_007", "hippocampus_011", "hippocampus_015"]


@pytest.mark.parametrize("name", few_shot_sets.SETS)
def test_no_patient_is_learned_from_and_tested_on_and_small_draws_lie_in_large_ones(
    name: str, shared_data: Path
) -> None:
    source = few_shot_sets.SETS[name]
    most = 5 if name == "chaos_mr_t2" else 10
    drawn = []
    for seed in (0, 1, 2):
        large, small = (few_shot_sets.split(shared_data, name, shots, seed) for shots in (most, 3))
        tested = {source.patient(case.name) for case in large.test}
        learned = [source.patient(case.name) for case in large.training]
        assert not tested & set(learned) and len(set(learned)) == most and len(large.test) == source.test
        assert large.training[:3] == small.training and large.test == small.test
        drawn.append({case.name for case in large.training})
    assert drawn[0] != drawn[1] != drawn[2]
    if name == "hippocampus":
        assert [case.name for case in few_shot_sets.split(shared_data, name, 5, 0).training] == ANCHOR


def test_too_many_shots_are_refused(shared_data: Path) -> None:
    with pytest.raises(ValueError, match="chaos_mr_t2 has 8 volumes to learn from, not 10"):
        few_shot_sets.split(shared_data, "chaos_mr_t2", 10, 0)


@pytest.fixture
def made_set(synthetic_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The drawn cases as a set of which the last is tested on."""
    made = few_shot_sets.FewShotSet(synthetic_folder.name, 1, 1, (32, 32, 32), whole=True)
    monkeypatch.setitem(few_shot_sets.SETS, "made", made)
    return synthetic_folder.parent


@pytest.mark.parametrize("method", ["fm3d", "unet", "fseft_loop"])
def test_a_row_keeps_its_budget_and_measures(method: str, made_set: Path) -> None:
    figures = few_shot_row.run(Row("made", 2, 0, method, 1.0, made_set))
    assert 1.0 <= figures["train_core_s"] < 10 and figures["steps"] >= 1
    assert 0 <= figures["min"] <= figures["dice"] <= 1 and len(figures["per_volume"]) == 1
    assert set(figures["per_label"]) == {"ellipsoid", "tube"} and figures["infer_core_s"] > 0
    json.dumps(figures)


def test_a_perfect_answer_scores_one_and_a_missing_structure_is_counted(made_set: Path) -> None:
    from fm3d_core.volumes import read_label

    volumes = few_shot_sets.split(made_set, "made", 2, 0)
    truth = read_label(volumes.test[0].label).array  # type: ignore[arg-type]
    perfect = few_shot_row.score([truth], volumes)
    assert (perfect["dice"], perfect["hd95"], perfect["missed"]) == (1.0, 0.0, 0)
    half = few_shot_row.score([np.where(truth == 1, truth, 0)], volumes)
    assert (half["dice"], half["missed"]) == (0.5, 1)


def _figures(row: Row, dice: float = 0.5) -> dict[str, Any]:
    plain = {"set": row.set, "shots": row.shots, "seed": row.seed, "method": row.method, "budget": row.budget}
    numbers = dict.fromkeys(("sd", "min", "hd95", "train_core_s", "prepare_core_s", "infer_core_s"), 1.0)
    return {**plain, **numbers, "dice": dice, "missed": 0, "per_volume": [dice - 0.01, dice + 0.01]}


def test_finished_rows_are_passed_over_and_a_line_cut_off_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    benchmark = few_shot.Benchmark(sets=("hippocampus",), shots=(1, 3), seeds=(0,), methods=("unet",), out=out)
    first, second = benchmark.rows()
    out.write_text(json.dumps(_figures(first)) + "\n" + json.dumps(_figures(second))[:20])
    ran: list[Row] = []
    monkeypatch.setattr(few_shot, "run_row", lambda row: ran.append(row) or _figures(row))
    benchmark.run()
    assert ran == [second] and len(few_shot.read_rows(out)) == 2
    benchmark.run()
    replace(benchmark, table=True, seeds=(0, 1)).run()
    assert ran == [second]


def test_presets_have_their_own_budget() -> None:
    benchmark = few_shot.Benchmark(
        sets=("hippocampus",), shots=(1,), seeds=(0,), methods=("fm3d:fast", "unet"), budgets=(20, 60)
    )
    assert [(row.method, row.budget) for row in benchmark.rows()] == [
        ("fm3d:fast", few_shot.preset_seconds("fm3d:fast")),
        ("unet", 20),
        ("unet", 60),
    ]


def test_the_pairs_have_the_seeds_of_both_and_the_difference_of_each_volume() -> None:
    rows = [_figures(Row("hippocampus", 1, seed, "unet", 60.0), 0.7 + seed / 10) for seed in (0, 1)]
    rows += [_figures(Row("hippocampus", 1, 0, "fm3d", 60.0), 0.9), _figures(Row("la_mr", 1, 0, "fm3d", 60.0), 0.9)]
    lines = paired_table_of(rows).splitlines()
    assert lines[2:] == ["| hippocampus (2) | 1 | 1 | 60 | 0.900 | 0.700 | +0.200 ± 0.000 |"]


def test_the_table_has_the_mean_of_the_seeds_best_method_first() -> None:
    rows = [_figures(Row("hippocampus", 1, seed, "unet", 60.0), 0.7 + seed / 10) for seed in (0, 1)]
    rows.append(_figures(Row("hippocampus", 1, 0, "fm3d", 60.0), 0.9))
    lines = table_of(rows).splitlines()
    assert "| fm3d | 1 | 0.900 |" in lines[2] and "| unet | 2 | 0.750 ± 0.071 |" in lines[3] and len(lines) == 4


def test_a_row_that_fails_says_why(tmp_path: Path) -> None:
    answer = few_shot.run_row(Row("hippocampus", 1, 0, "unet", 1.0, tmp_path))
    assert isinstance(answer, str) and "is no folder" in answer
