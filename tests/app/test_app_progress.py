"""The progress file between the training process and the server."""

import json
import math
from types import SimpleNamespace

import pytest

from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.errors import StorageError
from fm3d_core.progress import Progress
from fm3d_core.teaching import TaughtVersion
from MonaiLabelApp.lib import progress_file
from MonaiLabelApp.lib.progress_file import ProgressFile, read_progress


def test_an_event_arrives_with_the_names_monai_labels_clients_know(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json", "run1")
    progress(Progress("training", 3, 10, 2.0, 4.5, 0.7, {"dice": 0.5}))
    told = read_progress(tmp_path / "progress.json")
    assert (told["stage"], told["step"], told["total"], told["eta"]) == ("training", 3, 10, 4.5)
    assert (told["epoch"], told["total_epochs"], told["run_id"], told["state"]) == (3, 10, "run1", "running")
    assert told["metrics"] == {"dice": 0.5}


def test_a_stage_with_a_time_budget_has_the_steps_it_will_take(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress(Progress("training", 30, 0, elapsed=15.0, eta=45.0))
    assert read_progress(tmp_path / "progress.json")["total"] == 120


def test_steps_in_quick_succession_are_written_at_most_twice_a_second(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    for step in range(200):
        progress(Progress("training", step, 200))
    assert read_progress(tmp_path / "progress.json")["step"] == 0


def test_a_new_stage_is_written_at_once(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    for stage in ("reading volumes", "preparing volumes", "training"):
        progress(Progress(stage, 0, 1))
        assert read_progress(tmp_path / "progress.json")["stage"] == stage


def taught(version, stage, active, dice=None):
    """A version as ``teach`` tells it, without an adapter behind it."""
    expected = dice and ExpectedDice(dice, None, None, {}, {}, "held out")
    card = SimpleNamespace(left_out=("case_7: its label is empty.",), stage=stage, expected_dice=expected)
    return TaughtVersion(SimpleNamespace(version=version, card=card, active=active), 2.04, "because")


def test_the_end_keeps_the_last_figures_even_if_they_were_not_written_before(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress(Progress("training", 1, 9, loss=2.0))
    progress(Progress("training", 9, 9, loss=0.1))
    progress.version_there(taught(4, "final", True))
    progress.done()
    told = read_progress(tmp_path / "progress.json")
    assert (told["state"], told["version"], told["step"], told["loss"]) == ("done", 4, 9, 0.1)
    assert told["left_out"] == ["case_7: its label is empty."]


def test_versions_are_told_as_they_land_and_when_they_were_measured(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress(Progress("training", 3, 10))
    progress.version_there(taught(4, "linear_probe", True))
    (first,) = read_progress(tmp_path / "progress.json")["versions"]
    assert first == {
        "version": 4,
        "stage": "linear_probe",
        "seconds": 2.0,
        "expected_dice": None,
        "active": True,
        "why": "because",
    }
    progress.version_there(taught(5, "final", True))
    progress.version_there(taught(5, "final", True, 0.8))
    told = read_progress(tmp_path / "progress.json")["versions"]
    assert [(each["version"], each["active"]) for each in told] == [(4, False), (5, True)]
    assert told[1]["expected_dice"] == {"mean": 0.8, "low": None, "high": None, "how": "held out"}


def test_a_failure_tells_the_reason_and_no_version(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress.failed("the disk is full. Free some space.")
    told = read_progress(tmp_path / "progress.json")
    assert told["error"] == told["message"] == "the disk is full. Free some space."
    assert "version" not in told


def test_a_cancelled_run_says_what_it_has_kept(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress.cancelled()
    assert read_progress(tmp_path / "progress.json")["message"] == "Cancelled. Nothing had been learned yet."
    progress.version_there(taught(3, "linear_probe", False))
    progress.interrupted("The server was stopped meanwhile.")
    told = read_progress(tmp_path / "progress.json")
    assert (told["state"], told["version"]) == ("interrupted", 3)
    assert "Version 3 had landed and was kept. It is not the active one: because." in told["message"]


def test_the_curve_grows_and_stays_short(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "SECONDS_BETWEEN_WRITES", 0.0)
    progress = ProgressFile(tmp_path / "progress.json")
    for step in range(500):
        progress(Progress("training", step, 500, loss=1 / (step + 1), metrics={"dice": 0.5}))
    told = read_progress(tmp_path / "progress.json")
    assert 100 <= len(told["curve"]) <= 200 and told["dice"] == 0.5
    assert told["curve"][0][1] == 1.0 and told["curve"][-1][1] == 0.002
    seconds = [point[0] for point in told["curve"]]
    assert seconds == sorted(seconds)


def test_nan_does_not_reach_a_file_that_must_be_json(tmp_path):
    progress = ProgressFile(tmp_path / "progress.json")
    progress(Progress("training", 1, 2, eta=math.inf, loss=math.nan, metrics={"dice": math.nan}))
    text = (tmp_path / "progress.json").read_text()
    told = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert told["loss"] is None and told["eta"] is None and told["metrics"] == {"dice": None}


def test_nothing_is_left_beside_the_file(tmp_path):
    ProgressFile(tmp_path / "progress.json").waiting()
    assert [path.name for path in tmp_path.iterdir() if path.name != "fm3d_home"] == ["progress.json"]


def test_before_the_first_training_there_is_no_progress(tmp_path):
    assert read_progress(tmp_path / "progress.json") == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(StorageError, match=r"progress\.json.*Delete"):
        read_progress(tmp_path / "progress.json")
