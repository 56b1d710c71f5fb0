"""What the processes of a run tell each other beside gradients, and how Fabric carries a batch to the objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fm3d_core.pretraining.objective import Objective, TrainingBatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Carried:
    """A batch as Fabric and DDP pass it on: unseen, hence untouched."""

    __slots__ = ("batch",)

    def __init__(self, batch: TrainingBatch) -> None:
        self.batch = batch


class Carrier(nn.Module):
    """The module that Fabric wraps."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, carried: Carried) -> dict[str, torch.Tensor]:
        return self.objective(carried.batch)


class Exchange:
    """Between all processes of a run; with one process everything stays as it is."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    def means(self, figures: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
        """Means over all processes: one exchange, and one wait for the device."""
        values = [torch.as_tensor(value).detach().to(self.fabric.device, torch.float32) for value in figures.values()]
        packed = torch.stack(values)
        if self.fabric.world_size > 1:
            packed = self.fabric.all_reduce(packed, reduce_op="mean")
        return dict(zip(figures, packed.tolist(), strict=True))

    def gathered(self, lines: list[str]) -> list[list[str]]:
        """The same thing of all processes, in their order."""
        if self.fabric.world_size == 1:
            return [lines]
        parts: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(parts, lines)
        return parts
