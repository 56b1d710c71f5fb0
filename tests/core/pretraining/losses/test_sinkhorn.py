"""Sinkhorn-Knopp equals the reference, dense and from features, and changes nothing it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fm3d_core.pretraining.losses import SinkhornTargets, sinkhorn_knopp


def _textbook(logits: torch.Tensor, temperature: float, iterations: int) -> torch.Tensor:
    """The algorithm as it is written, on the whole matrix."""
    assignment = torch.exp(logits.double() / temperature)
    rows, columns = logits.shape
    for _ in range(iterations):
        assignment = assignment / assignment.sum(dim=0, keepdim=True) / columns
        assignment = assignment / assignment.sum(dim=1, keepdim=True) / rows
    return (assignment * rows).float()


def test_class_tokens_equal_the_reference(losses: dict[str, Any]) -> None:
    found = sinkhorn_knopp(losses["teacher_logits"], losses["teacher_temp"])
    torch.testing.assert_close(found, losses["sinkhorn"], atol=1e-5, rtol=1e-4)


def test_masked_patches_equal_the_reference(losses: dict[str, Any]) -> None:
    found = sinkhorn_knopp(losses["ibot"]["teacher_logits"], losses["teacher_temp"])
    torch.testing.assert_close(found, losses["ibot"]["sinkhorn"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep_scores", [True, False])
def test_from_features_it_equals_the_reference(keep_scores: bool, losses: dict[str, Any]) -> None:
    logits = losses["teacher_logits"]  # features whose prototypes are the unit vectors
    targets = SinkhornTargets(logits, torch.eye(logits.shape[1]), losses["teacher_temp"], keep_scores=keep_scores)
    order = torch.tensor([5, 0, 11, 5])
    torch.testing.assert_close(targets.rows(order), losses["sinkhorn"][order], atol=1e-5, rtol=1e-4)
    again = targets.rows(order).clone()
    targets.rows(order).zero_()  # the caller may overwrite what it gets
    assert torch.equal(targets.rows(order), again)


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_the_factors_give_the_assignment_of_the_textbook(iterations: int) -> None:
    logits = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.07, iterations), _textbook(logits, 0.07, iterations))


def test_every_prototype_is_used_equally_often() -> None:
    logits = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) + torch.arange(16) / 4
    found = sinkhorn_knopp(logits, 0.5, iterations=60)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(found.sum(dim=0), torch.full((16,), 4.0), atol=1e-3, rtol=0)


def test_scores_too_large_for_the_exponential_give_finite_rows() -> None:
    logits = torch.tensor([[900.0, -900.0, 0.0], [800.0, 0.0, -800.0]])
    assert torch.isfinite(sinkhorn_knopp(logits, 0.04)).all()


def test_no_rows_are_no_error_and_the_input_stays_as_it_was(losses: dict[str, Any]) -> None:
    assert sinkhorn_knopp(torch.empty(0, 8), 0.05).shape == (0, 8)
    logits = losses["teacher_logits"].clone()
    sinkhorn_knopp(logits, 0.05)
    assert torch.equal(logits, losses["teacher_logits"])
