"""Small modules that finetuning puts beside or behind a backbone's layers; each adds nothing at the start."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """``scale * up(ReLU(down(x)))`` of two linear layers, ``up`` zero at the start (AdaptFormer, Chen et al. 2022).

    Args:
        width: of what comes in and goes out.
        rank: width in between.
        scale: of the result.
    """

    def __init__(self, width: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.scale = scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., width), as it came in."""
        return self.scale * self.up(F.relu(self.down(tokens)))


class Parallel(nn.Module):
    """The sum of a layer and what is added beside it.

    Args:
        layer: of the backbone.
        added: gets the same input.
    """

    def __init__(self, layer: nn.Module, added: nn.Module) -> None:
        super().__init__()
        self.layer, self.added = layer, added

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs) + self.added(inputs)
