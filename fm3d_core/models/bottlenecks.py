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


class RankScale(nn.Module):
    """Multiplies column i of a weight (outputs, rank, ...) by a trained factor, zero at the start."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale.view(1, -1, *[1] * (weight.ndim - 2))


class KroneckerLinear(nn.Module):
    """A linear layer whose weight is a sum of ``n`` Kronecker products, ``A_i`` (n, n) with ``s_i t_i`` of rank one.

    Compacter's layer (Karimi Mahabadi et al. 2021, equations 5 to 7): about (inputs + outputs) weights and a bias.

    Args:
        shared: A (n, n, n), which all layers of a network share.
        inputs, outputs: widths, multiples of n.
        zero: whether the weight is zero at the start.
    """

    def __init__(self, shared: nn.Parameter, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        number = len(shared)
        self.shared = shared
        self.left = nn.Parameter(torch.empty(number, inputs // number, 1))
        self.right = nn.Parameter(torch.empty(number, 1, outputs // number))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.left)
        nn.init.zeros_(self.right) if zero else nn.init.xavier_uniform_(self.right)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        weight = torch.einsum("iab,icx,ixd->acbd", self.shared, self.left, self.right)
        return F.linear(tokens, weight.flatten(2).flatten(0, 1).T, self.bias)


class Behind(nn.Module):
    """A layer and a residual adapter of its output.

    Args:
        layer: of the backbone, with an output (..., width).
        down, up: to the adapter's inner width and back.
    """

    def __init__(self, layer: nn.Module, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.layer, self.down, self.up = layer, down, up

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result = self.layer(inputs)
        return result + self.up(F.gelu(self.down(result)))
