"""Discrete-time survival equals the reference, and stays finite where a logarithm of a probability would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.tasks.hazards import (
    quantile_bin_edges,
    survival_curve,
    survival_loss,
    survival_risk,
    time_bins,
)


@pytest.fixture(scope="module")
def reference(parity_folder: Path) -> dict[str, Any]:
    return torch.load(parity_folder / "survival.pt", weights_only=True)


@pytest.mark.parametrize(("alpha", "name"), [(0.0, "loss_alpha0"), (0.15, "loss_alpha0.15")])
def test_the_loss_equals_the_reference(alpha: float, name: str, reference: dict[str, Any]) -> None:
    found = survival_loss(reference["logits"], reference["Y"], reference["censored"], alpha=alpha)
    torch.testing.assert_close(found, reference[name], atol=1e-5, rtol=1e-4)


def test_the_risk_equals_the_reference(reference: dict[str, Any]) -> None:
    torch.testing.assert_close(survival_risk(reference["logits"]), reference["risk"], atol=1e-5, rtol=1e-4)


def test_bins_and_labels_equal_the_reference(reference: dict[str, Any]) -> None:
    edges = quantile_bin_edges(reference["times"].numpy(), 3)
    np.testing.assert_allclose(edges, reference["bin_edges"].numpy(), rtol=1e-6)
    assert time_bins(reference["times"].numpy(), edges).tolist() == reference["labels"].tolist()


def test_without_censoring_the_loss_is_the_likelihood_of_the_bins() -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    hazards = scores.sigmoid()
    before = torch.cat([torch.ones(5, 1), survival_curve(scores)[:, :-1]], dim=1)
    bins = torch.tensor([0, 1, 2, 3, 1])
    expected = -(before * hazards)[torch.arange(5), bins].log().mean()
    torch.testing.assert_close(survival_loss(scores, bins), expected)


def test_extreme_scores_give_finite_losses_and_gradients() -> None:
    scores = torch.tensor([[200.0, -200.0, 200.0], [-200.0, 200.0, -200.0]], requires_grad=True)
    loss = survival_loss(scores, torch.tensor([2, 0]), torch.tensor([1, 0]))
    loss.backward()
    assert torch.isfinite(loss) and scores.grad is not None and torch.isfinite(scores.grad).all()


def test_times_beyond_the_training_range_go_to_the_outer_bins() -> None:
    edges = quantile_bin_edges([1.0, 2.0, 3.0, 4.0], 2)
    assert time_bins([-5.0, 2.4, 2.5, 99.0], edges).tolist() == [0, 0, 1, 1]


def test_only_events_move_the_inner_edges() -> None:
    edges = quantile_bin_edges([1.0, 2.0, 3.0, 90.0], 2, censored=[0, 0, 0, 1])
    np.testing.assert_allclose(edges, [1.0, 2.0, 90.0], atol=1e-5)


def test_times_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(SettingsError, match="too many equal survival times for 3 bins"):
        quantile_bin_edges([5.0] * 9, 3)
    with pytest.raises(SettingsError, match="cannot cut 2 survival times into 3 bins"):
        quantile_bin_edges([1.0, float("nan")], 3)
