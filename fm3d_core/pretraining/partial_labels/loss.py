"""The loss where only some structures are annotated: sums over the annotated ones, no gradient for the others.

Silva-Rodriguez et al. 2023 (FSEFT): soft Dice alone. Liu et al. 2023 (CLIP-Driven Universal Model) and Li et al. 2024
(SuPreM): binary cross-entropy and Dice. One sigmoid per structure, no background.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

SMOOTH = 1.0  # in numerator and denominator of FSEFT's Dice
OTHER = 255  # the channel of voxels that are background or belong to no annotated structure


def partial_terms(
    scores: torch.Tensor, channels: torch.Tensor, annotated: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
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
    """
    dice, entropy = [], []
    for logits, target, mask in zip(scores.flatten(2), channels.flatten(1), annotated, strict=True):
        chosen = mask.nonzero().flatten()
        # position of each channel among the chosen ones; the last row collects the voxels of none of them
        place = torch.full((OTHER + 1,), len(chosen), dtype=torch.long, device=logits.device)
        place[chosen] = torch.arange(len(chosen), device=logits.device)
        where = place[target.long()]
        picked = logits[chosen].float()  # (chosen, voxels)
        one, two = _image_terms(picked, where)
        dice.append(one)
        entropy.append(two)
    return torch.stack(dice).mean(), torch.stack(entropy).mean()


def _image_terms(logits: torch.Tensor, where: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the rows of ``logits`` (n, voxels); ``where`` (voxels,) names the row of a voxel, n for none."""
    count = len(logits)
    inside = where < count
    row = where.clamp(max=count - 1)[None]
    sizes = torch.bincount(where, minlength=count + 1)[:count].to(logits.dtype)
    probabilities = logits.sigmoid()
    overlap = _sums(probabilities, row, inside)
    dice = 1 - (2 * overlap + SMOOTH) / (probabilities.sum(dim=1) + sizes + SMOOTH)
    # -y log p - (1 - y) log(1 - p) = softplus(x) - x y
    entropy = (F.softplus(logits).sum(dim=1) - _sums(logits, row, inside)) / logits.shape[1]
    return dice.mean(), entropy.mean()


def _sums(values: torch.Tensor, row: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """For each row of ``values`` (n, voxels) the sum over the voxels that belong to it."""
    own = torch.where(inside, values.gather(0, row)[0], 0.0)
    return own.new_zeros(len(values)).index_add(0, row[0], own)
