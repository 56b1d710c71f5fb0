"""Gram anchoring holds the likenesses among patches and nothing else."""

from __future__ import annotations

import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.losses import GramSettings, gram_loss


def test_it_is_zero_for_equal_patches_and_the_mean_squared_difference_of_cosines_else() -> None:
    torch.manual_seed(0)
    student, anchor = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    assert gram_loss(student, student).item() == 0
    cosines = [torch.nn.functional.cosine_similarity(x[:, :, None], x[:, None], dim=-1) for x in (student, anchor)]
    torch.testing.assert_close(gram_loss(student, anchor), (cosines[0] - cosines[1]).square().mean())


def test_features_may_turn_and_grow_as_they_like() -> None:
    torch.manual_seed(0)
    anchor = torch.randn(2, 6, 8)
    turn = torch.linalg.qr(torch.randn(8, 8))[0]
    lengths = torch.rand(2, 6, 1) + 0.5
    assert gram_loss(anchor @ turn * lengths, anchor).item() == pytest.approx(0, abs=1e-10)


def test_a_step_along_the_gradient_brings_the_likenesses_nearer_and_the_anchor_gets_none() -> None:
    torch.manual_seed(0)
    student, anchor = torch.randn(2, 6, 8, requires_grad=True), torch.randn(2, 6, 8, requires_grad=True)
    loss = gram_loss(student, anchor)
    loss.backward()
    assert anchor.grad is None and student.grad is not None
    assert gram_loss((student - 0.5 * student.grad).detach(), anchor) < loss
    # two orthogonal patches that were alike for the anchor are drawn together
    pair = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    gram_loss(pair, torch.ones(1, 2, 2)).backward()
    assert pair.grad is not None and pair.grad[0, 0, 1] < 0 and pair.grad[0, 1, 0] < 0


def test_it_starts_and_refreshes_when_told() -> None:
    settings = GramSettings(start=10, refresh=4)
    assert [step for step in range(20) if settings.refreshes(step)] == [10, 14, 18]
    assert [step for step in range(12) if settings.active(step)] == [10, 11]
    assert [step for step in range(20) if GramSettings(start=3, refresh=0).refreshes(step)] == [3]
    with pytest.raises(SettingsError, match="impossible Gram settings"):
        GramSettings(weight=-1)
