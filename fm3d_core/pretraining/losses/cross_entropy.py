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
    Prototypes,
    TeacherTargets,
    as_prototypes,
    product_dtype,
    row_chunks,
    scores,
)


def soft_cross_entropy(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """The plain form: cross-entropy (n,) of student's ``logits`` (n, K) and teacher's ``probabilities`` (n, K)."""
    return -(probabilities * torch.log_softmax(logits.float() / temperature, dim=-1)).sum(dim=-1)


def prototype_cross_entropy(
    features: torch.Tensor,
    prototypes: torch.Tensor | Prototypes,
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
        A float32 scalar with gradients for ``features`` and ``prototypes`` (for one backward pass only).
    """
    rows = as_prototypes(prototypes)
    return _PrototypeCrossEntropy.apply(
        features, rows.vectors, rows.lengths, targets, pairs, weights, temperature, chunk_entries
    )


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        vectors: torch.Tensor,
        lengths: torch.Tensor | None,
        targets: TeacherTargets,
        pairs: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
        chunk_entries: int,
    ) -> torch.Tensor:
        dtype = product_dtype(features)
        wants_features, wants_prototypes = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        factors = Prototypes(vectors, lengths).factors()
        student, directions = features.to(dtype), vectors.to(dtype)
        total = torch.zeros((), device=features.device)
        d_features = torch.zeros_like(features) if wants_features else None
        d_prototypes: torch.Tensor | None = None
        with torch.autocast(features.device.type, enabled=False):
            for part in row_chunks(len(features), len(vectors), chunk_entries):
                losses, slopes = _losses_and_slopes(
                    scores(student[part], directions, scale=1 / temperature, factors=factors), targets, pairs[part]
                )
                weight = weights[part].float()
                total += losses @ weight
                if not (wants_features or wants_prototypes):
                    continue
                slopes = slopes.mul_((weight / temperature)[:, None])  # d loss / d scores
                if wants_prototypes:
                    d_prototypes = _add_product(d_prototypes, slopes.to(dtype).T, student[part])
                if d_features is not None:
                    slopes = slopes if factors is None else slopes.mul_(factors)
                    d_features[part] = slopes.to(dtype) @ directions
        if wants_prototypes and d_prototypes is None:
            d_prototypes = torch.zeros_like(vectors, dtype=torch.float32)
        d_lengths = None
        if d_prototypes is not None and factors is not None:
            d_prototypes, d_lengths = _through_weight_norm(d_prototypes, vectors, factors)
        gradients = zip((d_features, d_prototypes, d_lengths), (features, vectors, lengths), strict=True)
        ctx.gradients = [None if gradient is None else gradient.to(like.dtype) for gradient, like in gradients]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = outer
        gradients, ctx.gradients = ctx.gradients, None  # given away: scaled in place, not copied
        return (*(None if gradient is None else gradient.mul_(slope) for gradient in gradients), *[None] * 5)


def _through_weight_norm(
    gradient: torch.Tensor, vectors: torch.Tensor, factors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the ``gradient`` (K, d) of w = g v / |v|, which is overwritten, those of v and of g (K, 1).

    Salimans and Kingma 2016, equation 3: dg = dw v / |v|, dv = (g / |v|) dw - (g dg / |v|^2) v.
    """
    vectors = vectors.float()
    products = torch.bmm(gradient[:, None], vectors[:, :, None]).flatten()  # dw v
    norms = vectors.norm(dim=1)  # not lengths / factors: a length may be 0
    own = (factors * products / norms.square())[:, None]
    return gradient.mul_(factors[:, None]).addcmul_(vectors, own, value=-1), (products / norms)[:, None]


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


def _add_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``total`` + left @ right in float32; no total is 0."""
    if total is None:
        return (left @ right).float()
    if left.dtype == total.dtype:
        return total.addmm_(left, right)
    return total.add_(left @ right)
