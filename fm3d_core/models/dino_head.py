"""The projection head of self-distillation (Caron et al. 2021, DINO): an MLP, unit length, and prototypes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """A linear layer whose rows have a direction and a length of their own (Salimans & Kingma 2016, weight norm).

    Parameters carry the names of PyTorch's former ``weight_norm``, as in the public files.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1))
        self.weight_v = nn.Parameter(torch.empty(count, width))
        nn.init.trunc_normal_(self.weight_v, std=0.02)

    @property
    def weight(self) -> torch.Tensor:
        """(count, width)."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.linear(vectors, self.weight)


class DINOHead(nn.Module):
    """Scores of each token against the prototypes.

    Args:
        width: channels of a token.
        prototypes: number of scores (3DINO: 65536).
        hidden, bottleneck: widths of the MLP and of its output (3DINO: 2048, 256).
        layers: linear layers of the MLP.
    """

    def __init__(
        self, width: int, prototypes: int = 65536, hidden: int = 2048, bottleneck: int = 256, layers: int = 3
    ) -> None:
        super().__init__()
        widths = [width, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = Prototypes(bottleneck, prototypes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., prototypes)."""
        return self.last_layer(self.unit_vectors(tokens))

    def unit_vectors(self, tokens: torch.Tensor) -> torch.Tensor:
        """The MLP's output at unit length (..., bottleneck); losses over many prototypes go on from here in parts."""
        hidden = self.mlp(tokens)
        return F.normalize(hidden, dim=-1, eps=1e-6 if hidden.dtype == torch.float16 else 1e-12)
