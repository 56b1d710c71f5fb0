"""The draws are those of FSEFT's code, and so are the settings."""

from __future__ import annotations

import random

import pytest

from fm3d_core.adaptation import FinetuneSettings
from fm3d_core.adaptation.fseft_protocol import draw_support, fseft_settings, number_of_folds
from fm3d_core.errors import CaseError


@pytest.mark.parametrize(("shots", "fold"), [(1, 1), (5, 2), (10, 3), (29, 1), (30, 1), (40, 1)])
def test_a_draw_is_that_of_the_protocol(shots: int, fold: int) -> None:
    lines = [f"case {number}" for number in range(35)]
    random.seed(fold - 1)
    expected = random.sample(lines, min(shots + 1, 30))[:-1]
    assert draw_support(lines, shots, fold) == expected
    assert len(expected) == min(shots, 29)


def test_a_draw_leaves_the_random_numbers_of_others_alone() -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    draw_support(range(10), 3, 1)
    assert random.random() == expected


def test_folds_are_one_for_large_draws_and_too_few_cases_are_refused() -> None:
    assert number_of_folds(5, 3) == 3 and number_of_folds(30, 3) == 1
    for shots in (0, 5):
        with pytest.raises(CaseError, match="too few"):
            draw_support(range(5), shots, 1)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        (FinetuneSettings(method="linear_probe"), 1e-2),
        (FinetuneSettings(method="lora"), 1e-3),
        (FinetuneSettings(method="lora", decoder="finetuned"), 1e-4),
        (FinetuneSettings(method="spatial_adapter"), 1e-4),
        (FinetuneSettings(method="lora", learning_rate=0.5), 0.5),
    ],
)
def test_settings_are_the_published_ones_unless_others_are_given(settings: FinetuneSettings, rate: float) -> None:
    chosen = fseft_settings(settings, 5)
    assert (chosen.batch_size, chosen.steps, chosen.learning_rate) == (6, 995, rate)
    assert fseft_settings(FinetuneSettings(steps=3), 5).steps == 3
