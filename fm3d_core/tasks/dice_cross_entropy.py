"""Dice plus cross-entropy of exclusive classes in one function with its gradient worked out.

The same value and gradient as MONAI's ``DiceCELoss(to_onehot_y=True, softmax=True, batch=True)``, which computes the
softmax twice and holds a one-hot copy of the labels: with 14 classes that was three quarters of a training step of the
small U-Net on a CPU (benchmarks/segmentation_loss.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

SMOOTH = 1e-5  # MONAI's smooth_nr and smooth_dr
SMALLEST = 1e-37  # a probability below it may be rounded to 0, whose logarithm says nothing


class _DiceCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A scalar, float32.

        With p the softmax and y the one-hot labels, per class c over all voxels v of the batch:
        I = sum(p y), D = sum(p) + sum(y), Dice loss = 1 - (2 I + s) / (D + s), averaged over the classes.
        """
        classes = scores.shape[1]
        probabilities = scores.softmax(1, dtype=torch.float32)  # (B, C, X, Y, Z)
        own = probabilities.gather(1, target[:, None])[:, 0]  # (B, X, Y, Z), of the true class
        flat = target.flatten()
        overlap = torch.bincount(flat, weights=own.flatten(), minlength=classes).float()
        sizes = probabilities.sum((0, 2, 3, 4)) + torch.bincount(flat, minlength=classes)
        numerator, denominator = 2 * overlap + SMOOTH, sizes + SMOOTH
        dice = 1 - (numerator / denominator).mean()
        # derivative of the mean Dice loss to p at a voxel: of_all everywhere, of_true besides where y is 1
        of_all = numerator / denominator**2 / classes
        of_true = -2 / denominator / classes
        ctx.save_for_backward(probabilities, own, target, of_all, of_true)
        ctx.dtype = scores.dtype
        if bool((own < SMALLEST).any()):
            return dice + F.cross_entropy(scores.float(), target)
        return dice - own.log().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Through the softmax: dz_c = p_c (g_c - sum_k p_k g_k), and (p - y) / n of the cross-entropy."""
        probabilities, own, target, of_all, of_true = ctx.saved_tensors
        each = 1 / target.numel()
        at_true = of_true[target] * own  # (B, X, Y, Z)
        mean = torch.einsum("c,bcxyz->bxyz", of_all, probabilities) + at_true
        gradient = of_all[:, None, None, None] + (each - mean)[:, None]
        gradient *= probabilities
        gradient.scatter_add_(1, target[:, None], (at_true - each)[:, None])
        gradient *= gradients[0]
        return gradient.to(ctx.dtype), None


def dice_cross_entropy(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the classes, background among them, of the Dice loss of the whole batch, plus mean cross-entropy.

    Args:
        scores: (B, classes, X, Y, Z) logits, float32 or bfloat16.
        target: (B, X, Y, Z) int64 classes.

    Returns:
        A scalar, float32. It has a gradient, but no second one.
    """
    loss: torch.Tensor = _DiceCrossEntropy.apply(scores, target)
    return loss
