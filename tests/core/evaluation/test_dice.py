"""Dice per structure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fm3d_core.evaluation import dice_per_label, mean_dice

LABELS = ("liver", "spleen", "kidney")


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    truth, prediction = np.zeros((2, 6, 5, 4), np.uint8)
    truth[:4, :, 0] = 1
    prediction[2:, :, 0] = 1
    truth[0, 0, 1:3] = prediction[0, 0, 2:4] = 2
    scores = dice_per_label(prediction, truth, LABELS)
    assert scores["liver"] == pytest.approx(2 * 10 / (20 + 20))
    assert scores["spleen"] == pytest.approx(0.5)


def test_a_structure_in_neither_is_not_measured_and_in_one_only_is_zero() -> None:
    truth, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    truth[0], prediction[1] = 1, 2
    scores = dice_per_label(prediction, truth, LABELS)
    assert scores["liver"] == 0 and scores["spleen"] == 0 and math.isnan(scores["kidney"])
    assert mean_dice(scores) == 0
    assert math.isnan(mean_dice({"kidney": math.nan}))


def test_two_grids_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shape"):
        dice_per_label(np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 5), np.uint8), LABELS)
