"""The loss where only some structures are annotated: sums over the annotated ones, no gradient for the others.

Silva-Rodriguez et al. 2023 (FSEFT): soft Dice alone. Liu et al. 2023 (CLIP-Driven Universal Model) and Li et al. 2024
(SuPreM): binary cross-entropy and Dice. One sigmoid per structure, no background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch.nn import functional as F

Term = Literal["dice", "cross_entropy"]
SMOOTH = 1.0  # in numerator and denominator of FSEFT's Dice
OTHER = 255  # the channel of voxels that are background or belong to no annotated structure


def partial_terms(
    scores: torch.Tensor,
    channels: torch.Tensor,
    annotated: torch.Tensor,
    terms: Sequence[Term] = ("dice", "cross_entropy"),
) -> dict[str, torch.Tensor]:
    """Dice loss and binary cross-entropy of a batch, each a scalar in float32.

    For each image and annotated structure c, with p = sigmoid(scores) and y = (channels == c) over all voxels::

        dice_c = 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)
        bce_c = mean(-y log p - (1 - y) log(1 - p))

    averaged over the annotated structures of the image, then over the images. The target is never expanded to one
    channel per structure: its sums are gathered from the label map.

    Args:
        scores: (B, C, X, Y, Z) logits.
        channels: (B, X, Y, Z) integers: which channel a voxel belongs to, ``OTHER`` for none.
        annotated: (B, C) bool: which structures the image's set has labelled; at least one each.
        terms: which of the two are worked out.
    """
    found: dict[str, list[torch.Tensor]] = {term: [] for term in terms}
    for logits, target, mask in zip(scores.flatten(2), channels.flatten(1), annotated, strict=True):
        chosen = mask.nonzero().flatten()
        # position of each channel among the chosen ones; the last row collects the voxels of none of them
        place = torch.full((OTHER + 1,), len(chosen), dtype=torch.long, device=logits.device)
        place[chosen] = torch.arange(len(chosen), device=logits.device)
        where = place[target.long()]
        picked = logits[chosen].float()  # (chosen, voxels)
        for term in terms:
            found[term].append(_TERMS[term](picked, where))
    return {term: torch.stack(values).mean() for term, values in found.items()}


def _dice(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of ``logits`` (n, voxels); ``where`` (voxels,) names the row of a voxel, n for none."""
    sizes = torch.bincount(where, minlength=len(logits) + 1)[: len(logits)].to(logits.dtype)
    probabilities = logits.sigmoid()
    overlap = _sums(probabilities, where)
    return (1 - (2 * overlap + SMOOTH) / (probabilities.sum(dim=1) + sizes + SMOOTH)).mean()


def _cross_entropy(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """As :func:`_dice`: -y log p - (1 - y) log(1 - p) = softplus(x) - x y."""
    return ((F.softplus(logits).sum(dim=1) - _sums(logits, where)) / logits.shape[1]).mean()


_TERMS: dict[Term, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "dice": _dice,
    "cross_entropy": _cross_entropy,
}


def _sums(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """For each row of ``values`` (n, voxels) the sum over the voxels that belong to it."""
    inside, row = where < len(values), where.clamp(max=len(values) - 1)
    # index_add adds one by one: in float32 a million equal values would come out per cents wrong
    own = torch.where(inside, values.gather(0, row[None])[0], 0.0).double()
    return own.new_zeros(len(values)).index_add(0, row, own).to(values.dtype)
