"""The DINO loss equals the reference, value and gradient, and pairs the right views."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fm3d_core.pretraining.losses import DenseTargets, dino_loss, view_pairs

BATCH = 6


def test_local_crops_against_both_teacher_views_equal_the_reference(losses: dict[str, Any]) -> None:
    student = losses["student_local"].clone().requires_grad_()
    loss = dino_loss(
        student,
        torch.eye(student.shape[1]),
        DenseTargets(losses["sinkhorn"]),
        view_pairs(4, 2, BATCH, same_views=False),
        BATCH,
        temperature=losses["student_temp"],
        chunk_entries=5 * 64,
    )
    loss.backward()
    torch.testing.assert_close(loss, losses["loss_local_sum"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student.grad, losses["d_local"], atol=1e-5, rtol=1e-4)


def test_global_crops_equal_the_reference(losses: dict[str, Any]) -> None:
    """The fixture compares row with row: one view of 12 images."""
    student = losses["student_global"].clone().requires_grad_()
    loss = dino_loss(
        student, torch.eye(64), DenseTargets(losses["sinkhorn"]), torch.arange(12)[:, None], 12, chunk_entries=5 * 64
    )
    loss.backward()
    torch.testing.assert_close(loss, losses["loss_global"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student.grad, losses["d_global"], atol=1e-5, rtol=1e-4)


def test_a_global_view_is_compared_with_the_other_one_of_the_same_image() -> None:
    assert view_pairs(2, 2, 3, same_views=True).flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert view_pairs(3, 2, 2, same_views=False).tolist() == [[0, 2], [1, 3]] * 3
    assert view_pairs(3, 3, 1, same_views=True).tolist() == [[1, 2], [0, 2], [0, 1]]
    with pytest.raises(ValueError, match="3 student views are not the 2 teacher views"):
        view_pairs(3, 2, 4, same_views=True)
