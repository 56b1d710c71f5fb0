"""``fm3d finetune --shots k --seeds n``: draws, versions, a table; mistakes are one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from command import run

from fm3d_core.adaptation import AdapterStore

QUICK = ("--steps", 2, "--device", "cpu")


def test_each_draw_gives_a_version_and_a_line_and_none_becomes_active(
    synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, results = tmp_path / "store", tmp_path / "results.json"
    options = ("--shots", 1, "--seeds", 2, "--store", store, "--results", results)
    assert run("finetune", synthetic_folder, *options, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "Draw 2 of 2" in printed and "mean Dice" in printed and "±" in printed
    names = sorted(path.name[:-7] for path in (synthetic_folder / "images").iterdir())
    drawn = [random.Random(seed).sample(names, 2)[:1] for seed in (0, 1)]
    versions = AdapterStore(store).versions()
    assert [[case.name for case in version.card.cases] for version in versions] == drawn
    assert not any(version.active for version in versions)
    content = json.loads(results.read_text())
    assert [row["cases"] for row in content["draws"]] == drawn
    assert set(content["test"]) == set(names) - {name for draw in drawn for name in draw}
    dice = [row["mean_dice"] for row in content["draws"]]
    assert content["mean"]["mean_dice"]["mean"] == pytest.approx(sum(dice) / 2, abs=1e-4)
    assert run("finetune", synthetic_folder, *options, *QUICK) == 2  # results are not overwritten
    assert len(AdapterStore(store).versions()) == 2


def test_lists_say_what_is_drawn_from_and_measured_on(
    synthetic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name[:-7] for path in (synthetic_folder / "images").iterdir())
    lines = [f"images/{name}.nii.gz labels/{name}.nii.gz" for name in names]
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("\n".join(lines[:3]))
    test.write_text(lines[3])
    common = ("--shots", 2, "--split", train, "--test-split", test, "--store", tmp_path / "store")
    assert run("finetune", synthetic_folder, *common, "--labels", "tube", *QUICK) == 0
    assert "Measured on 1 case " in " ".join(capsys.readouterr().out.split())
    (version,) = AdapterStore(tmp_path / "store").versions()
    assert version.card.task.labels == ("tube",)
    assert [case.name for case in version.card.cases] == random.Random(0).sample(names[:3], 3)[:2]
    test.write_text("\n".join(lines))
    assert run("finetune", synthetic_folder, *common, *QUICK) == 2
    assert "which is learned from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", 2), "draws need --shots"),
        (("--fseft",), "goes with --seeds or --split"),
        (("--shots", 4, "--seeds", 1), "too few to draw 4"),
        (("--shots", 1, "--seeds", 0), "seeds is 0"),
        (("--shots", 1, "--seeds", 1, "--labels", "liver"), "unknown label liver"),
    ],
)
def test_mistakes_are_one_line_with_exit_2(
    options: tuple[object, ...],
    said: str,
    synthetic_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("finetune", synthetic_folder, *options, "--store", tmp_path / "store") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
