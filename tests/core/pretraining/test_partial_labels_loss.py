"""The masked loss against numbers worked out by hand, and no gradient where nothing is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.pretraining.partial_labels.loss import OTHER, partial_terms


def test_dice_and_cross_entropy_by_hand() -> None:
    """Four voxels, two structures; the first image knows both, the second only structure 1.

    Logits 0 give p = 0.5. Image 1: structure 0 holds voxels {0, 1}: dice 1 - (2 * 1 + 1) / (2 + 2 + 1) = 0.4;
    structure 1 holds {2}: 1 - (2 * 0.5 + 1) / (2 + 1 + 1) = 0.5; mean 0.45. Image 2: log(3) gives p = 0.75; structure
    1 holds {2, 3}: 1 - (2 * 1.5 + 1) / (3 + 2 + 1) = 1/3. Batch: (0.45 + 1/3) / 2.
    """
    scores = torch.zeros(2, 2, 4, 1, 1)
    scores[1] = math.log(3)
    channels = torch.tensor([[0, 0, 1, OTHER], [0, OTHER, 1, 1]], dtype=torch.uint8).reshape(2, 4, 1, 1)
    annotated = torch.tensor([[True, True], [False, True]])
    dice, entropy = partial_terms(scores, channels, annotated).values()
    assert float(dice) == pytest.approx((0.45 + 1 / 3) / 2, abs=1e-6)
    # image 1: log 2 everywhere; image 2: two voxels of -log 0.75, two of -log 0.25
    second = (-2 * math.log(0.75) - 2 * math.log(0.25)) / 4
    assert float(entropy) == pytest.approx((math.log(2) + second) / 2, abs=1e-6)


def test_it_is_the_loss_of_the_expanded_target() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 5, 6, 5, 4, generator=generator, dtype=torch.float32).requires_grad_()
    channels = torch.randint(0, 6, (3, 6, 5, 4), generator=generator).to(torch.uint8)
    channels[channels == 5] = OTHER
    annotated = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    dice, entropy = partial_terms(scores, channels, annotated).values()
    ours = torch.autograd.grad(dice + entropy, scores)[0]

    target = torch.stack([(channels == c).float() for c in range(5)], dim=1).flatten(2)
    p = scores.flatten(2).sigmoid()
    each = 1 - (2 * (p * target).sum(2) + 1) / (p.sum(2) + target.sum(2) + 1)
    bce = F.binary_cross_entropy_with_logits(scores.flatten(2), target, reduction="none").mean(2)
    share = annotated / annotated.sum(1, keepdim=True)
    expected = [(term * share).sum(1).mean() for term in (each, bce)]
    torch.testing.assert_close(torch.stack([dice, entropy]), torch.stack(expected), atol=1e-6, rtol=0)
    theirs = torch.autograd.grad(expected[0] + expected[1], scores)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_what_a_set_has_not_annotated_gets_no_gradient_at_all() -> None:
    scores = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    channels = torch.full((2, 4, 4, 4), OTHER, dtype=torch.uint8)
    channels[:, :2] = 0
    annotated = torch.tensor([[True, False, True], [False, True, False]])
    sum(partial_terms(scores, channels, annotated).values()).backward()  # type: ignore[union-attr]
    assert scores.grad is not None
    assert all((scores.grad[b, c] == 0).all() == (not annotated[b, c]) for b in range(2) for c in range(3))


def test_large_structures_are_summed_exactly() -> None:
    """A million voxels of p = 0.3: one by one in float32 the overlap would be wrong in the second digit."""
    scores = torch.full((1, 1, 100, 100, 100), math.log(0.3 / 0.7))
    dice, entropy = partial_terms(
        scores, torch.zeros(1, 100, 100, 100, dtype=torch.uint8), torch.tensor([[True]])
    ).values()
    assert float(dice) == pytest.approx(1 - (0.6e6 + 1) / (1.3e6 + 1), abs=1e-6)
    assert float(entropy) == pytest.approx(-math.log(0.3), abs=1e-6)


def test_half_precision_scores_give_a_loss_in_float32() -> None:
    dice, entropy = partial_terms(
        torch.zeros(1, 1, 64, 64, 64, dtype=torch.bfloat16),
        torch.zeros(1, 64, 64, 64, dtype=torch.uint8),
        torch.tensor([[True]]),
    ).values()
    assert dice.dtype == entropy.dtype == torch.float32
    assert float(dice) == pytest.approx(1 - (64**3 + 1) / (1.5 * 64**3 + 1), abs=1e-5)
