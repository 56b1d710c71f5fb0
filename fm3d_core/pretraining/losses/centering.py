"""Softmax with a centre: the teacher's scores minus their running mean, so that no prototype dominates.

Caron et al. 2021 (DINO, equation 4): the centre is an exponential moving average of the batch mean of the scores.
"""

from __future__ import annotations

import torch
from torch import nn

from fm3d_core.pretraining.distributed import reduced
from fm3d_core.pretraining.losses.targets import Prototypes, as_prototypes, product_dtype, scores


class CenteredTargets:
    """softmax((scores - center) / temperature) of the rows asked for; nothing of size n x K is held.

    Args:
        features: teacher's features before the prototypes (n, d).
        prototypes: teacher's prototypes (K, d).
        center: running mean of the scores (K,).
        temperature: of the teacher.
    """

    def __init__(
        self, features: torch.Tensor, prototypes: torch.Tensor | Prototypes, center: torch.Tensor, temperature: float
    ) -> None:
        dtype, prototypes = product_dtype(features), as_prototypes(prototypes)
        self._features, self._vectors = features.detach().to(dtype), prototypes.vectors.detach().to(dtype)
        self._factors = prototypes.factors
        self._center, self._scale = center.detach().float() / temperature, 1 / temperature

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Distributions (m, K) of the rows ``index`` (m,)."""
        with torch.no_grad(), torch.autocast(self._features.device.type, enabled=False):
            found = scores(self._features[index], self._vectors, scale=self._scale, factors=self._factors)
            return torch.softmax(found.sub_(self._center), dim=-1)


class Center(nn.Module):
    """The running mean of the teacher's scores, a buffer that goes into checkpoints.

    Args:
        prototypes: number of prototypes K.
        momentum: share of the old centre that stays (DINO: 0.9).
    """

    value: torch.Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))

    @torch.no_grad()
    def update(self, features: torch.Tensor, prototypes: torch.Tensor | Prototypes) -> None:
        """Move the centre towards the mean score of ``features`` (n, d) of all processes; no rows, no move.

        The mean of the scores is the score of the mean feature: (d,) is summed over processes instead of (n, K).
        """
        total = reduced(torch.cat([features.detach().float().sum(dim=0), features.new_tensor([len(features)]).float()]))
        if total[-1] > 0:
            prototypes = as_prototypes(prototypes)
            with torch.autocast(features.device.type, enabled=False):
                mean = prototypes.vectors.detach().float() @ (total[:-1] / total[-1])
            mean = mean if prototypes.factors is None else mean * prototypes.factors
            self.value.lerp_(mean, 1 - self.momentum)

    def extra_repr(self) -> str:
        return f"prototypes={len(self.value)}, momentum={self.momentum}"
