"""KoLeo equals the reference and is finite where the reference's half precision was not."""

from __future__ import annotations

from typing import Any

import torch

from fm3d_core.pretraining.losses import koleo_loss


def test_value_and_gradient_equal_the_reference(losses: dict[str, Any]) -> None:
    features = losses["koleo"]["x"].clone().requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    torch.testing.assert_close(loss, losses["koleo"]["loss"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.grad, losses["koleo"]["dx"], atol=1e-5, rtol=1e-4)


def test_one_row_and_equal_rows_equal_the_reference_with_finite_gradients(losses: dict[str, Any]) -> None:
    row = losses["koleo"]["x"][:1]
    for features, name in ((row, "loss_single_row"), (row.repeat(4, 1), "loss_identical_rows")):
        features = features.clone().requires_grad_()
        loss = koleo_loss(features)
        loss.backward()
        torch.testing.assert_close(loss, losses["koleo"][name], atol=1e-5, rtol=1e-4)
        assert features.grad is not None and torch.isfinite(features.grad).all()


def test_half_precision_input_is_computed_in_full() -> None:
    rows = torch.ones(3, 8, dtype=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = koleo_loss(rows)
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert koleo_loss(torch.zeros(2, 8, dtype=torch.float16)).isfinite()
    assert koleo_loss(torch.empty(0, 8)).item() == 0
