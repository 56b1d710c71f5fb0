"""Cross-entropy between the teacher's and the student's distributions over many prototypes.

H(p, s) = -sum_k p_k log softmax(s / temperature)_k, Caron et al. 2021 (DINO, equation 2). The plain form holds several
n x K tensors; at n = 13,000 masked tokens and K = 65,536 one takes 3.4 GB. The chunked form goes through the rows in
groups and takes the gradient of a group, p and softmax at hand, in the forward pass (the loss is linear in what comes
after it), so that groups are forgotten at once and no product is computed twice. With fewer rows than channels the
derivatives by the scores are smaller than the prototypes' gradient; then they are what waits for the backward pass.
"""

from __future__ import annotations

import itertools
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
    sizes = (len(features),)
    return prototype_cross_entropies(
        features, prototypes, targets, pairs, weights, temperature, sizes, chunk_entries=chunk_entries
    )[0]


def prototype_cross_entropies(
    features: torch.Tensor,
    prototypes: torch.Tensor | Prototypes,
    targets: TeacherTargets,
    pairs: torch.Tensor,
    weights: torch.Tensor,
    temperature: float,
    sizes: tuple[int, ...],
    *,
    chunk_entries: int = CHUNK_ENTRIES,
) -> torch.Tensor:
    """The same of several groups of rows, ``sizes`` of them after one another: (groups,).

    Computed together they need one gradient of the prototypes at a time, where each by itself would need its own.
    """
    rows = as_prototypes(prototypes)
    return _PrototypeCrossEntropy.apply(
        features, rows.vectors, rows.lengths, rows, targets, pairs, weights, temperature, sizes, chunk_entries
    )


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        vectors: torch.Tensor,
        lengths: torch.Tensor | None,
        prototypes: Prototypes,
        targets: TeacherTargets,
        pairs: torch.Tensor,
        weights: torch.Tensor,
        temperature: float,
        sizes: tuple[int, ...],
        chunk_entries: int,
    ) -> torch.Tensor:
        gradients = _Gradients(features, prototypes, ctx.needs_input_grad)
        waiting: list[tuple[slice, torch.Tensor]] = []
        later, wanted = len(features) <= vectors.shape[1], any(ctx.needs_input_grad)
        row_weights = weights.float() * (pairs.shape[1] / temperature)  # of the slopes
        totals = []
        with torch.autocast(features.device.type, enabled=False):
            for number, group in enumerate(_groups(sizes)):
                total = torch.zeros((), device=features.device)
                for part in row_chunks(len(group), len(vectors), chunk_entries, start=group.start):
                    rows = gradients.student[part]
                    logits = scores(rows, gradients.directions, scale=1 / temperature, factors=prototypes.factors)
                    losses, slopes = _losses_and_slopes(logits, targets, pairs[part])
                    del logits
                    total += losses @ weights[part].float()
                    if wanted and later:
                        waiting.append((part, slopes.to(gradients.student.dtype)))
                    elif wanted:
                        gradients.add(part, slopes, row_weights[part], number)
                totals.append(total)
        ctx.gradients, ctx.waiting, ctx.row_weights, ctx.sizes = gradients, waiting, row_weights, sizes
        return torch.stack(totals)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = outer
        gradients, waiting = ctx.gradients, ctx.waiting
        ctx.gradients = ctx.waiting = None  # given away, not copied
        of_rows = torch.cat([each.expand(size) for each, size in zip(slope, ctx.sizes, strict=True)])
        if not waiting:
            return (*gradients.finished(slope, of_rows), *[None] * 7)
        with torch.autocast(slope.device.type, enabled=False):
            while waiting:
                part, slopes = waiting.pop()
                gradients.add(part, slopes, ctx.row_weights[part] * of_rows[part], 0)
        return (*gradients.finished(None, None), *[None] * 7)


def _groups(sizes: tuple[int, ...]) -> list[range]:
    ends = list(itertools.accumulate(sizes))
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


class _Gradients:
    """Gradients of features and prototypes, added up over groups of rows.

    Attributes:
        student, directions: features and prototypes' vectors in the type of the products.
    """

    def __init__(self, features: torch.Tensor, prototypes: Prototypes, wanted: tuple[bool, ...]) -> None:
        dtype = product_dtype(features)
        self.student, self.directions = features.detach().to(dtype), prototypes.vectors.detach().to(dtype)
        self._features_dtype, self._prototypes = features.dtype, prototypes
        self._features = torch.zeros_like(features) if wanted[0] else None
        self._wants_prototypes = any(wanted[1:3])
        self._sums: dict[int, torch.Tensor] = {}  # of each group (K, d)

    def add(self, part: slice, slopes: torch.Tensor, weight: torch.Tensor, group: int) -> None:
        """The rows ``part`` with derivatives ``slopes`` (m, K), overwritten, times ``weight`` (m,) by their scores."""
        dtype = self.student.dtype
        # the weight goes into the narrow factors of the products
        if self._wants_prototypes:
            rows = (self.student[part] * weight[:, None]).to(dtype)
            self._sums[group] = _add_product(self._sums.get(group), slopes.to(dtype).T, rows)
        if self._features is not None:
            factors = self._prototypes.factors
            slopes = slopes if factors is None else slopes.mul_(factors)
            product = (slopes.to(dtype) @ self.directions) * weight[:, None]
            self._features[part] = product.to(self._features.dtype)

    def finished(self, of_groups: torch.Tensor | None, of_rows: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Gradients of features, vectors and lengths; times ``of_groups`` and ``of_rows`` unless that was done."""
        vectors, lengths, prototypes = self._prototypes.vectors, self._prototypes.lengths, self._prototypes
        d_vectors, d_lengths = self._total(of_groups), None
        if self._wants_prototypes and d_vectors is None:
            d_vectors = torch.zeros_like(vectors, dtype=torch.float32)  # no rows
        if d_vectors is not None and prototypes.factors is not None and prototypes.norms is not None:
            d_vectors, d_lengths = _through_weight_norm(d_vectors, vectors, prototypes.factors, prototypes.norms)
        if self._features is not None and of_rows is not None:
            self._features.mul_(of_rows[:, None])
        found = zip((self._features, d_vectors, d_lengths), (self._features, vectors, lengths), strict=True)
        results = [None if value is None or like is None else value.to(like.dtype) for value, like in found]
        self._features = None
        return tuple(results)

    def _total(self, of_groups: torch.Tensor | None) -> torch.Tensor | None:
        total = None
        for group in list(self._sums):
            each = self._sums.pop(group)
            each = each if of_groups is None else each.mul_(of_groups[group])
            total = each if total is None else total.add_(each)
        return total


def _through_weight_norm(
    gradient: torch.Tensor, vectors: torch.Tensor, factors: torch.Tensor, norms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the ``gradient`` (K, d) of w = g v / |v|, which is overwritten, those of v and of g (K, 1).

    Salimans and Kingma 2016, equation 3: dg = dw v / |v|, dv = (g / |v|) dw - (g dg / |v|^2) v.
    """
    vectors = vectors.detach().float()
    products = torch.bmm(gradient[:, None], vectors[:, :, None]).flatten()  # dw v
    own = (factors * products / norms.square())[:, None]
    return gradient.mul_(factors[:, None]).addcmul_(vectors, own, value=-1), (products / norms)[:, None]


def _losses_and_slopes(
    logits: torch.Tensor, targets: TeacherTargets, pairs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row losses (m,) of ``logits`` (m, K), and their derivatives by these over the number of pairs (m, K)."""
    logarithms = torch.log_softmax(logits, dim=-1)
    wanted = targets.rows(pairs[:, 0])
    for column in pairs.T[1:]:
        wanted += targets.rows(column)
    losses = -torch.bmm(wanted[:, None], logarithms[:, :, None]).flatten()
    return losses, logarithms.exp_().sub_(wanted, alpha=1 / pairs.shape[1])


def _add_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``total`` + left @ right in float32; no total is 0."""
    if total is None:
        return (left @ right).float()
    if left.dtype == total.dtype:
        return total.addmm_(left, right)
    return total.add_(left @ right)
