"""What the teacher says: for each row a distribution over prototypes, computed only for the rows asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from fm3d_core.models.linear import linear

# entries of the largest temporary, 16 MB in float32: large enough for fast matrix products, small beside a model
CHUNK_ENTRIES = 2**22


class Prototypes:
    """K prototypes of a weight-normalised layer, never multiplied out: number k is lengths_k * vectors_k / |vectors_k|.

    With 65,536 of them each copy takes 67 MB and a pass over memory, more than the products of a small batch.

    Args:
        vectors: (K, d); must not change while this is in use.
        lengths: (K, 1); None where the vectors are the prototypes themselves.

    Attributes:
        factors: what the vectors are to be multiplied with (K,), float32, without gradient; None for 1.
        norms: of the vectors (K,), float32, where there are lengths.
    """

    def __init__(self, vectors: torch.Tensor, lengths: torch.Tensor | None = None) -> None:
        self.vectors, self.lengths = vectors, lengths
        self.norms = self.factors = None
        if lengths is not None:
            self.norms = vectors.detach().norm(dim=1, dtype=torch.float32)
            self.factors = lengths.detach().float().flatten() / self.norms

    def __len__(self) -> int:
        return len(self.vectors)

    def largest(self) -> torch.Tensor:
        """The length of the longest prototype."""
        if self.lengths is None:
            return self.vectors.detach().norm(dim=1, dtype=torch.float32).max()
        return self.lengths.detach().float().abs().max()


def as_prototypes(prototypes: torch.Tensor | Prototypes) -> Prototypes:
    """A plain (K, d) tensor as :class:`Prototypes`."""
    return prototypes if isinstance(prototypes, Prototypes) else Prototypes(prototypes)


class TeacherTargets(Protocol):
    """Distributions over K prototypes for n rows, of which only a few rows exist at a time."""

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """A new float32 tensor (m, K) with the distributions of the rows ``index`` (m,); each row sums to one."""
        ...


@dataclass(frozen=True)
class DenseTargets:
    """Distributions (n, K) that exist already."""

    probabilities: torch.Tensor

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return self.probabilities.detach()[index].float()


def product_dtype(like: torch.Tensor) -> torch.dtype:
    """The type for matrix products: autocast's where it is on, else that of ``like``."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


def scores(
    features: torch.Tensor, vectors: torch.Tensor, *, scale: float, factors: torch.Tensor | None = None
) -> torch.Tensor:
    """``scale`` * features (m, d) @ (factors * vectors)^T of (K, d) as a new float32 tensor (m, K).

    The scale goes into the smaller factor, which saves a pass over the (m, K) result.
    """
    result = linear(features * scale, vectors).float()
    return result if factors is None else result.mul_(factors)


def row_chunks(rows: int, width: int, entries: int = CHUNK_ENTRIES, start: int = 0) -> list[slice]:
    """Slices over ``rows`` from ``start`` on such that rows of ``width`` entries make at most ``entries`` together."""
    step, end = max(entries // max(width, 1), 1), start + rows
    return [slice(first, min(first + step, end)) for first in range(start, end, step)]
