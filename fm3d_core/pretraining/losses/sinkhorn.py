"""Sinkhorn-Knopp: the teacher's assignment, balanced so that every prototype is used equally often.

Cuturi 2013; for assignments to prototypes Caron et al. 2020 (SwAV, section 3.1); in DINOv2 Oquab et al. 2023. The
assignment of n rows to K prototypes is Q = diag(v) exp(scores / temperature) diag(u). One iteration makes the columns
of Q sum to 1/K, then its rows to 1/n; in the end each row is scaled to sum to one. Only the two vectors of factors are
iterated, so Q is read in blocks of columns and never copied. Rows of all processes are balanced together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fm3d_core.pretraining.distributed import reduced
from fm3d_core.pretraining.losses.targets import Prototypes, as_prototypes, product_dtype, row_chunks, scores

Block = Callable[[slice], torch.Tensor]


@torch.no_grad()
def sinkhorn_knopp(logits: torch.Tensor, temperature: float, iterations: int = 3) -> torch.Tensor:
    """Balanced assignment of rows to prototypes.

    Args:
        logits: teacher's scores (n, K); n may differ between processes and may be 0. Not changed.
        temperature: of the teacher.
        iterations: 3DINO and DINOv2 use 3.

    Returns:
        float32 (n, K), each row sums to one.
    """
    logits = logits.float()
    largest = logits.max() if logits.numel() else logits.new_tensor(-torch.inf)
    weights = torch.exp((logits - reduced(largest, "max")) / temperature)
    samples, count = logits.shape
    columns, rows = _factors(lambda part: weights[:, part], samples, count, iterations, logits.device)
    return weights * columns * rows[:, None]


class SinkhornTargets:
    """The same from features, without ever holding more than one copy of the scores (or none).

    Args:
        features: teacher's features before the prototypes (n, d).
        prototypes: teacher's prototypes (K, d).
        temperature: of the teacher.
        iterations: as in :func:`sinkhorn_knopp`.
        keep_scores: hold exp(scores / temperature), n x K float32, once; otherwise nothing is held and each use
            computes its block anew, which costs one more matrix product per iteration and one in the loss.
    """

    @torch.no_grad()
    def __init__(
        self,
        features: torch.Tensor,
        prototypes: torch.Tensor | Prototypes,
        temperature: float,
        iterations: int = 3,
        *,
        keep_scores: bool = True,
    ) -> None:
        dtype = product_dtype(features)
        # |score| <= |feature| |prototype|: a shift equal on all processes that needs no pass over the scores
        prototypes = as_prototypes(prototypes)
        bound = _largest_norm(features) * prototypes.largest()
        self._shift = reduced(bound, "max") / temperature
        self._features, self._vectors = features.detach().to(dtype), prototypes.vectors.detach().to(dtype)
        self._scale, self._factors = 1 / temperature, prototypes.factors
        samples, count = len(features), len(prototypes)
        self._weights = self._exponentials(self._features, slice(None)) if keep_scores else None
        columns, rows = _factors(self._columns, samples, count, iterations, features.device)
        self._column_factors, self._row_factors = columns, rows
        if self._weights is not None:
            self._weights.mul_(columns).mul_(rows[:, None])

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Distributions (m, K) of the rows ``index`` (m,)."""
        with torch.no_grad():
            if self._weights is not None:
                return self._weights.index_select(0, index)
            chosen = self._exponentials(self._features[index], slice(None))
            return chosen.mul_(self._column_factors).mul_(self._row_factors[index, None])

    def _columns(self, part: slice) -> torch.Tensor:
        if self._weights is not None:
            return self._weights[:, part]
        return self._exponentials(self._features, part)

    def _exponentials(self, features: torch.Tensor, part: slice) -> torch.Tensor:
        factors = None if self._factors is None else self._factors[part]
        with torch.autocast(features.device.type, enabled=False):
            return scores(features, self._vectors[part], scale=self._scale, factors=factors).sub_(self._shift).exp_()


def _largest_norm(rows: torch.Tensor) -> torch.Tensor:
    return rows.detach().float().norm(dim=1).max() if len(rows) else torch.zeros((), device=rows.device)


def _factors(
    block: Block, samples: int, prototypes: int, iterations: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Column factors (K,) and row factors (n,) of the balanced assignment, rows summing to one.

    Args:
        block: columns ``slice`` of exp(scores / temperature) as (n, slice).
    """
    tiny = torch.finfo(torch.float32).tiny  # a prototype or row whose every weight underflowed gets 0, not 0 / 0
    columns, rows = torch.ones(prototypes, device=device), torch.ones(samples, device=device)
    total = reduced(torch.tensor(float(samples), device=device)).clamp(min=1)
    parts = _common_parts(row_chunks(prototypes, samples), prototypes, device)
    with torch.autocast(device.type, enabled=False):
        for _ in range(iterations):
            sums = torch.zeros(samples, device=device)
            # a block gives its columns' sums over all rows, hence their factors, hence its share of the rows' sums
            for part in parts:
                weights = block(part)
                columns[part] = 1 / (prototypes * reduced(weights.T @ rows)).clamp(min=tiny)
                sums += weights @ columns[part]
            rows = 1 / (total * sums).clamp(min=tiny)
    return columns, rows * total


def _common_parts(parts: list[slice], prototypes: int, device: torch.device) -> list[slice]:
    """The finest cut of all processes: they hold different numbers of rows but must reduce in step."""
    count = int(reduced(torch.tensor(len(parts), device=device), "max"))
    step = -(-prototypes // count)
    return [slice(start, min(start + step, prototypes)) for start in range(0, prototypes, step)]
