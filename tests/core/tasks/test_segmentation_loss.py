"""The loss on partial labels: the plain one where all is known, blind to what was not annotated."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import IGNORED

LOSS = SegmentationTask(("a", "b")).loss()
PLAIN = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, 3, 6, 5, 4) and a target in whole numbers."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 6, 5, 4, generator=generator)
    return scores.requires_grad_(), torch.randint(0, 3, (2, 1, 6, 5, 4), generator=generator).float()


@pytest.mark.parametrize("annotated", [None, torch.ones(2, 3, dtype=torch.bool)])
def test_complete_labels_give_the_plain_loss(
    annotated: torch.Tensor | None, example: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scores, target = example
    torch.testing.assert_close(LOSS(scores, target, annotated), PLAIN(scores, target))


def test_the_loss_is_that_of_the_known_voxels_alone(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, target = example
    partial = target.clone()
    partial[..., 2:] = IGNORED
    loss = LOSS(scores, partial)
    torch.testing.assert_close(loss, PLAIN(scores[..., :2], target[..., :2]))
    loss.backward()
    assert scores.grad is not None
    assert not scores.grad[..., 2:].any() and scores.grad[..., :2].all()


def test_unannotated_structures_merge_into_the_background(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, target = example
    target = torch.where(target == 2, 0, target)
    loss = LOSS(scores, target, torch.tensor([[True, True, False]] * 2))
    probability = scores.softmax(1)
    merged = torch.stack([probability[:, 0] + probability[:, 2], probability[:, 1]], dim=1)
    torch.testing.assert_close(loss, PLAIN(merged.log(), target))
    # whether such a voxel is background or the structure nobody looked for makes no difference
    swapped = scores[:, [2, 1, 0]]
    torch.testing.assert_close(loss, LOSS(swapped, target, torch.tensor([[True, True, False]] * 2)))
    loss.backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_one_image_of_a_batch_may_be_annotated_for_less(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, target = example
    target[1] = torch.where(target[1] == 2, 0, target[1])
    loss = LOSS(scores, target, torch.tensor([[True, True, True], [True, True, False]]))
    (gradient,) = torch.autograd.grad(loss, scores)
    background = target[1, 0] == 0
    # in the second image the third score is pulled to the background's side, in the first it is pushed off it
    assert (gradient[1, 2][background] < 0).float().mean() > 0.9
    assert (gradient[0, 2][target[0, 0] == 0] > 0).float().mean() > 0.9


def test_nothing_known_is_no_loss_and_no_gradient(example: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, target = example
    loss = LOSS(scores, torch.full_like(target, IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0 and scores.grad is not None and not scores.grad.any()
