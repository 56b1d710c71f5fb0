"""Small parts of a structure apart from the rest of it are taken out where it was one connected part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.inference import Predictor
from fm3d_core.inference.islands import remove_islands
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume


def _scores(*boxes: tuple[int, int, float]) -> torch.Tensor:
    """(3, 24, 8, 8) in which background has 0 and the given row its score in slabs of four slices from ``start``."""
    scores = torch.zeros(3, 24, 8, 8)
    scores[1:] = -1
    for row, start, score in boxes:
        scores[row, start : start + 4, 2:6, 2:6] = score
    return scores


def test_a_small_part_goes_to_what_was_second_best() -> None:
    scores = _scores((1, 0, 5.0), (1, 4, 5.0), (1, 4, 5.0), (1, 12, 5.0), (2, 12, 3.0), (1, 18, 5.0))
    scores[1, 12:15], scores[1, 18:21] = -1, -1  # of both islands one slice of 16 voxels is left; the rest is 2 and 0
    removed = remove_islands(scores, {"liver": 1})
    classes = scores.argmax(0)
    assert removed == {"liver": 32}
    assert (classes[0:8, 2:6, 2:6] == 1).all() and (classes[12:16, 2:6, 2:6] == 2).all() and not classes[18:].any()


def test_a_part_half_as_large_as_the_largest_stays() -> None:
    scores = _scores((1, 0, 5.0), (1, 10, 5.0))
    scores[1, 10:12] = -1
    assert remove_islands(scores, {"kidney": 1}) == {}
    assert int((scores.argmax(0) == 1).sum()) == 6 * 16


def test_what_takes_the_place_of_an_island_may_be_one_itself() -> None:
    scores = _scores((1, 0, 5.0), (2, 5, 5.0), (1, 20, 5.0), (2, 20, 3.0))
    scores[1:, 20:23] = -1
    assert remove_islands(scores, {"left": 1, "right": 2}) == {"left": 16, "right": 16}
    assert not scores.argmax(0)[20:].any()


@pytest.mark.parametrize("rows", [{}, {"absent": 2}])
def test_nothing_is_changed_where_there_is_nothing_to_do(rows: dict[str, int]) -> None:
    scores = _scores((1, 0, 5.0), (1, 10, 5.0))
    scores[1, 10:13] = -1
    before = scores.clone()
    assert remove_islands(scores, rows) == {} and torch.equal(scores, before)


@pytest.mark.parametrize("views", [1, 2])
def test_a_predictor_takes_islands_out_marks_them_and_can_leave_them(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, quick: FinetuneSettings, views: int
) -> None:
    adapter = finetune(synthetic_cases[:2], task, replace(quick, steps=1))
    assert adapter.card.connected  # the made-up structures are one part each
    adapter = replace(adapter, card=replace(adapter.card, connected=(task.labels[0],)))
    volume = read_volume(synthetic_cases[2].image)
    strewn, cleaned = Predictor(adapter, views=views, keep_islands=True), Predictor(adapter, views=views)
    before, after = strewn.predict(volume), cleaned.predict(volume)
    assert not before.removed
    first = task.values[task.labels[0]]
    gone = (before.labels == first) & (after.labels != first)
    assert gone.any() and set(after.removed) == {task.labels[0]}
    assert np.array_equal(before.uncertainty, after.uncertainty)  # what was taken out was unsure, and stays marked
    assert np.array_equal(cleaned.segment(volume), after.labels)
    assert np.array_equal(strewn.segment(volume), before.labels)
