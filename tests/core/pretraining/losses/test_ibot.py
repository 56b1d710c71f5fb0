"""The iBOT loss on masked patches equals the reference, value and gradient."""

from __future__ import annotations

from typing import Any

import torch

from fm3d_core.pretraining.losses import SinkhornTargets, ibot_loss
from fm3d_core.pretraining.masking import Masks


def test_masked_patches_equal_the_reference(losses: dict[str, Any]) -> None:
    expected = losses["ibot"]
    student = expected["student_logits"].clone().requires_grad_()
    masks = Masks.of(expected["masks"])
    torch.testing.assert_close(masks.weights, expected["masks_weight"], atol=1e-5, rtol=1e-4)
    unit = torch.eye(student.shape[1])
    targets = SinkhornTargets(expected["teacher_logits"], unit, losses["teacher_temp"])
    loss = ibot_loss(student, unit, targets, masks.weights, len(masks.hidden), chunk_entries=7 * 64)
    loss.backward()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student.grad, expected["d_student"], atol=1e-5, rtol=1e-4)
