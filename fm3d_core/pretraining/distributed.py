"""Sums over processes that are the identity where ``torch.distributed`` is not in use. No input is changed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import distributed


def world_size() -> int:
    """Processes that train together; 1 outside of distributed training."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def reduced(value: torch.Tensor, operation: Literal["sum", "max"] = "sum") -> torch.Tensor:
    """``value`` summed (or its maximum taken) element by element over all processes, without gradient.

    Every process must call this the same number of times with the same shape.
    """
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total, distributed.ReduceOp.SUM if operation == "sum" else distributed.ReduceOp.MAX)
    return total


def gathered(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """All processes' ``rows`` (n, C), equal n, as (world * n, C), and the index of the first own row.

    Gradients flow back to the process that a row came from, summed over processes.
    """
    if world_size() == 1:
        return rows, 0
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows.contiguous()))), distributed.get_rank() * len(rows)
