"""The k-NN probe: what the nearest training images say, without any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TEMPERATURE = 0.07
NEIGHBOURS = (10, 20)


def neighbour_answers(
    known: torch.Tensor,
    answers: torch.Tensor,
    asked: torch.Tensor,
    neighbours: int = 20,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """The weighted mean of the nearest neighbours' answers.

    Wu et al. 2018 (section 3.4) as in Caron et al. 2021 (DINO): cosine likeness, votes of weight
    exp(likeness / temperature).

    Args:
        known: (n, C) of the training images.
        answers: (n, K): one-hot classes, findings as 0 and 1, or values.
        asked: (m, C).
        neighbours: that vote, or all there are.
        temperature: of the votes.

    Returns:
        (m, K).
    """
    from torch.nn import functional as F

    likeness = F.normalize(asked.float(), dim=1) @ F.normalize(known.float(), dim=1).T
    nearest, index = likeness.topk(min(neighbours, len(known)), dim=1)
    votes = (nearest / temperature).softmax(dim=1)  # exp(likeness / T) over their sum
    return (votes[..., None] * answers.float()[index]).sum(dim=1)
