"""Refinement moves a volume's sizes towards those of the labelled volumes, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.errors import SettingsError, Stopped
from fm3d_core.inference import Predictor, RefinementSettings, refine
from fm3d_core.inference.refinement import size_penalty
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import SYNTHETIC_LABELS, read_volume


@pytest.fixture(scope="module", params=["full", "spatial_adapter"])
def predictor(request: pytest.FixtureRequest, synthetic_cases: list[LabeledCase]) -> Predictor:
    settings = FinetuneSettings(method=request.param, steps=10, device="cpu")
    return Predictor(finetune(synthetic_cases[:2], SegmentationTask(SYNTHETIC_LABELS), settings), "cpu", views=1)


def _wanting(predictor: Predictor, sizes: dict[str, float]) -> Predictor:
    """The same adapter, as if its structures had been of these sizes in the labelled volumes."""
    card = replace(predictor.card, sizes={name: (size,) for name, size in sizes.items()})
    return Predictor(replace(predictor.adapter, card=card), "cpu", views=1)


def test_a_structure_that_is_too_small_grows_towards_the_wanted_size(
    predictor: Predictor, synthetic_cases: list[LabeledCase]
) -> None:
    volume = read_volume(synthetic_cases[2].image)
    prediction = predictor.predict(volume)
    scores = prediction.scores.clone()
    wanted = {"ellipsoid": 2 * prediction.sizes["ellipsoid"], "tube": prediction.sizes["tube"]}
    refined = refine(_wanting(predictor, wanted), prediction, settings=RefinementSettings(weight=10))
    assert 1.15 * refined.before["ellipsoid"] < refined.after["ellipsoid"] < 1.05 * wanted["ellipsoid"]
    assert refined.after["tube"] == pytest.approx(refined.before["tube"], rel=0.31)
    assert refined.changed == (refined.prediction.labels != prediction.labels).sum() > 0
    assert refined.wanted == pytest.approx(wanted) and 0 < refined.steps <= 50
    assert refined.prediction.uncertainty.shape == volume.shape
    # what it began with is still there
    assert torch.equal(prediction.scores, scores)
    np.testing.assert_array_equal(predictor.segment(volume), prediction.labels)


def test_nothing_is_touched_where_all_sizes_are_ordinary(
    predictor: Predictor, synthetic_cases: list[LabeledCase]
) -> None:
    prediction = predictor.predict(read_volume(synthetic_cases[2].image))
    refined = refine(_wanting(predictor, {n: 1.2 * size for n, size in prediction.sizes.items()}), prediction)
    assert refined.prediction is prediction and refined.changed == refined.steps == 0


def test_the_penalty_is_the_same_on_both_sides_and_zero_within_the_margin() -> None:
    """FSEFT's own code punishes what is too small by the margin too much."""
    targets = {1: 100.0}
    penalties = [
        float(size_penalty(torch.tensor([0.0, size]), targets, 0.3)) for size in (50.0, 71.0, 100.0, 142.0, 200.0)
    ]
    assert penalties == pytest.approx([0.2, 0, 0, 0, 0.2])


def test_what_cannot_be_refined_is_said(predictor: Predictor, synthetic_cases: list[LabeledCase]) -> None:
    prediction = predictor.predict(read_volume(synthetic_cases[2].image))
    with pytest.raises(SettingsError, match="does not know how large"):
        refine(_wanting(predictor, {}), prediction)
    with pytest.raises(Stopped):
        refine(_wanting(predictor, {"tube": 1e6}), prediction, should_stop=lambda: True)
