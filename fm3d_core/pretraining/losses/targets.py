"""What the teacher says: for each row a distribution over prototypes, computed only for the rows asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

# entries of the largest temporary, 32 MB in float32: large enough for fast matrix products, small beside a model
CHUNK_ENTRIES = 2**23


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


def scores(features: torch.Tensor, prototypes: torch.Tensor, *, scale: float) -> torch.Tensor:
    """``scale`` * features (m, d) @ prototypes (K, d)^T as a new float32 tensor (m, K).

    The scale goes into the smaller factor, which saves a pass over the (m, K) result.
    """
    return torch.matmul(features * scale, prototypes.T).float()


def row_chunks(rows: int, width: int, entries: int = CHUNK_ENTRIES) -> list[slice]:
    """Slices over ``rows`` such that rows of ``width`` entries make at most ``entries`` together."""
    step = max(entries // max(width, 1), 1)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
