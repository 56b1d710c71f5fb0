"""The one-pass loss has MONAI's value and gradient."""

import pytest
import torch
from monai.losses import DiceCELoss

from fm3d_core.tasks.dice_cross_entropy import dice_cross_entropy


@pytest.mark.parametrize("classes", [2, 3, 14])
@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
def test_value_and_gradient_are_monais(classes: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(2, classes, 7, 6, 5, generator=generator) * spread
    target = torch.randint(0, classes - (classes > 2), (2, 1, 7, 6, 5), generator=generator)  # one class is absent
    ours, theirs = (scores.clone().requires_grad_() for _ in range(2))
    value = dice_cross_entropy(ours, target[:, 0])
    wanted = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(theirs, target)
    (3 * value).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_gradient_is_that_of_finite_differences() -> None:
    scores = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randint(0, 3, (1, 2, 2, 2), generator=torch.Generator().manual_seed(1))
    dice_cross_entropy(scores, target).backward()
    for index in range(3):
        moved = [scores.detach().clone() for _ in range(2)]
        for each, step in zip(moved, (1e-2, -1e-2), strict=True):
            each[0, index, 1, 0, 1] += step
        slope = (dice_cross_entropy(moved[0], target) - dice_cross_entropy(moved[1], target)) / 2e-2
        assert scores.grad is not None
        assert float(scores.grad[0, index, 1, 0, 1]) == pytest.approx(float(slope), abs=1e-4)


def test_half_precision_scores_get_a_gradient_of_their_kind() -> None:
    scores = torch.randn(1, 3, 4, 4, 4).bfloat16().requires_grad_()
    loss = dice_cross_entropy(scores, torch.zeros(1, 4, 4, 4, dtype=torch.int64))
    loss.backward()
    assert loss.dtype == torch.float32 and scores.grad is not None and scores.grad.dtype == torch.bfloat16


def test_infinite_scores_give_no_number() -> None:
    scores = torch.full((1, 2, 2, 2, 2), torch.inf)
    assert not torch.isfinite(dice_cross_entropy(scores, torch.zeros(1, 2, 2, 2, dtype=torch.int64)))
