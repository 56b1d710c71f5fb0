"""Cross-entropy between the teacher's and the student's distributions over many prototypes.

H(p, s) = -sum_k p_k log softmax(s / temperature)_k, Caron et al. 2021 (DINO, equation 2). The plain form holds several
n x K tensors; at n = 13,000 masked tokens and K = 65,536 one takes 3.4 GB. The chunked form goes through the rows in
groups and takes the gradient of a group, p and softmax at hand, in the forward pass (the loss is linear in what comes
after it), so that groups are forgotten at once and no product is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch

from fm3d_core.pretraining.losses.targets import (
    CHUNK_ENTRIES,
    TeacherTargets,
    product_dtype,
    row_chunks,
    scores,
)


def soft_cross_entropy(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """The plain form: cross-entropy (n,) of student's ``logits`` (n, K) and teacher's ``probabilities`` (n, K)."""
    return -(probabilities * torch.log_softmax(logits.float() / temperature, dim=-1)).sum(dim=-1)


def prototype_cross_entropy(
    features: torch.Tensor,
    prototypes: torch.Tensor,
    targets: TeacherTargets,
    pairs: torch.Tensor,
    weights: torch.Tensor,
    temperature: float,
    *,
    chunk_entries: int = CHUNK_ENTRIES,
) -> torch.Tensor:
    """sum_i weights_i * sum_j H(target of row pairs_ij, scores of student row i), without n x K tensors.

    Args:
        features: student's features before the prototypes (n, d); n = 0 gives 0.
        prototypes: student's prototypes (K, d).
        targets: the teacher's distributions.
        pairs: teacher rows (n, t) that each student row is compared with.
        weights: (n,) of each student row; constants.
        temperature: of the student (DINO: 0.1).
        chunk_entries: entries of the largest temporary.

    Returns:
        A float32 scalar with gradients for ``features`` and ``prototypes`` (once; no double backward).
    """
    return _PrototypeCrossEntropy.apply(features, prototypes, targets, pairs, weights, temperature, chunk_entries)


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        prototypes: torch.Tensor,
        targets: TeacherTargets,
        pairs: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
        chunk_entries: int,
    ) -> torch.Tensor:
        dtype = product_dtype(features)
        wants_features, wants_prototypes = ctx.needs_input_grad[:2]
        student, directions = features.to(dtype), prototypes.to(dtype)
        total = torch.zeros((), device=features.device)
        d_features = torch.zeros_like(features) if wants_features else None
        d_prototypes = torch.zeros_like(prototypes, dtype=torch.float32) if wants_prototypes else None
        with torch.autocast(features.device.type, enabled=False):
            for part in row_chunks(len(features), len(prototypes), chunk_entries):
                losses, slopes = _losses_and_slopes(
                    scores(student[part], directions, scale=1 / temperature), targets, pairs[part]
                )
                weight = weights[part].float()
                total += losses @ weight
                if not (wants_features or wants_prototypes):
                    continue
                slopes = slopes.mul_((weight / temperature)[:, None]).to(dtype)  # d loss / d scores
                if d_features is not None:
                    d_features[part] = slopes @ directions
                if d_prototypes is not None:
                    _add_product(d_prototypes, slopes.T, student[part])
        ctx.d_features = d_features
        ctx.d_prototypes = d_prototypes.to(prototypes.dtype) if d_prototypes is not None else None
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = outer
        gradients = tuple(
            None if gradient is None else gradient * slope for gradient in (ctx.d_features, ctx.d_prototypes)
        )
        return (*gradients, None, None, None, None, None)


def _losses_and_slopes(
    logits: torch.Tensor, targets: TeacherTargets, pairs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row losses (m,) and their derivatives (m, K) by ``logits`` (m, K), which are overwritten (two buffers live)."""
    wanted = targets.rows(pairs[:, 0])
    for column in pairs.T[1:]:
        wanted += targets.rows(column)
    mass = float(pairs.shape[1])
    largest = logits.amax(dim=1, keepdim=True)
    agreement = torch.bmm(wanted[:, None], logits[:, :, None]).flatten()
    odds = logits.sub_(largest).exp_()
    sums = odds.sum(dim=1, keepdim=True)
    losses = mass * (sums.log() + largest).flatten() - agreement
    return losses, odds.mul_(mass / sums).sub_(wanted)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
