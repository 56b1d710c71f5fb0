"""Softmax centring equals the reference, and its centre moves as published."""

from __future__ import annotations

from typing import Any

import torch

from fm3d_core.pretraining.losses import Center, CenteredTargets


def test_targets_and_centre_equal_the_reference(losses: dict[str, Any]) -> None:
    logits, temperature, expected = losses["teacher_logits"], losses["teacher_temp"], losses["centering"]
    unit, everything = torch.eye(logits.shape[1]), torch.arange(len(logits))
    center = Center(logits.shape[1], expected["center_momentum"])
    before = CenteredTargets(logits, unit, center.value, temperature)
    center.update(logits, unit)
    torch.testing.assert_close(before.rows(everything), expected["softmax_before"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(center.value[None], expected["center_after_update"], atol=1e-5, rtol=1e-4)
    after = CenteredTargets(logits, unit, center.value, temperature)
    torch.testing.assert_close(after.rows(everything), expected["softmax_after"], atol=1e-5, rtol=1e-4)


def test_the_centre_of_masked_patches_equals_the_reference(losses: dict[str, Any]) -> None:
    logits = losses["ibot"]["teacher_logits"]
    center = Center(logits.shape[1])
    center.update(logits, torch.eye(logits.shape[1]))
    torch.testing.assert_close(center.value[None, None], losses["ibot"]["center_after_update"], atol=1e-5, rtol=1e-4)


def test_no_rows_leave_the_centre_where_it_was() -> None:
    center = Center(4)
    center.update(torch.ones(2, 3), torch.ones(4, 3))
    moved = center.value.clone()
    center.update(torch.empty(0, 3), torch.ones(4, 3))
    assert torch.equal(center.value, moved) and moved.abs().sum() > 0
    assert "value" in center.state_dict()
