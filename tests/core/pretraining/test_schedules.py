"""All five schedules of both stages equal the reference's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.schedules import HIGH_RESOLUTION, PRETRAINING, CosineSchedule, ScheduleSettings

FIELDS = {
    "lr": "learning_rate",
    "last": "last_layer_learning_rate",
    "wd": "weight_decay",
    "mom": "teacher_momentum",
    "temp": "teacher_temperature",
}


@pytest.fixture(scope="module")
def reference(parity_folder: Path) -> dict[str, Any]:
    return json.loads((parity_folder / "schedules_param_groups.json").read_text())["schedules"]


@pytest.mark.parametrize("name", list(FIELDS))
@pytest.mark.parametrize(("stage", "settings"), [("pretrain", PRETRAINING), ("highres", HIGH_RESOLUTION)])
def test_schedules_equal_the_reference(
    stage: str, settings: ScheduleSettings, name: str, reference: dict[str, Any]
) -> None:
    found = [getattr(settings.at(step), FIELDS[name]) for step in reference[stage]["iters"]]
    assert found == pytest.approx(reference[stage][name], rel=1e-12, abs=1e-15)
    assert settings.steps == reference[stage]["iters"][-1]


def test_a_schedule_of_nothing_but_warm_up_ends_at_its_end() -> None:
    schedule = CosineSchedule(1.0, 0.5, steps=3, warmup_steps=3)
    assert [schedule.at(step) for step in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.5]


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 5 steps"):
        CosineSchedule(1.0, 0.0, steps=5, warmup_steps=6)
    with pytest.raises(SettingsError, match="warm-up of 10 epochs does not fit 5"):
        ScheduleSettings(epochs=5)
    with pytest.raises(SettingsError, match="at least one step"):
        ScheduleSettings(batch=0)
