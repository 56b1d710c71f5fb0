"""The projection head of self-distillation: an MLP to a unit sphere, and prototypes on it.

Caron et al. 2021 (DINO, appendix C); parameter names as in the public 3DINO weights.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.linear import Linear, linear


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows have direction ``weight_v`` and length ``weight_g``.

    Salimans and Kingma 2016; the parameter names of ``torch.nn.utils.weight_norm``, which the public files have.
    """

    def __init__(self, input_channels: int, output_channels: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(output_channels, input_channels))
        self.weight_g = nn.Parameter(torch.ones(output_channels, 1))
        nn.init.trunc_normal_(self.weight_v, std=0.02)

    @property
    def weight(self) -> torch.Tensor:
        """The rows themselves (output_channels, input_channels)."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return linear(features, self.weight)


class DINOHead(nn.Module):
    """Tokens (..., input_channels) to scores over prototypes.

    Args:
        input_channels: width of the backbone.
        prototypes: scores per token (3DINO: 65,536).
        hidden: width of the MLP.
        bottleneck: width of the sphere that the prototypes lie on.
        layers: linear layers of the MLP.
    """

    def __init__(
        self, input_channels: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256, layers: int = 3
    ) -> None:
        super().__init__()
        widths = [input_channels, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        self.last_layer = WeightNormLinear(bottleneck, prototypes)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features on the unit sphere (..., bottleneck)."""
        features = self.mlp(tokens)
        # float16 knows no smaller constant than this
        return F.normalize(features, dim=-1, eps=1e-6 if features.dtype == torch.float16 else 1e-12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.last_layer(self.embed(tokens))
