"""KoLeo: spreads features over the sphere by pushing each away from its nearest neighbour.

Sablayrolles et al. 2019, equation 4 (after Kozachenko and Leonenko); in DINOv2 Oquab et al. 2023. Always in float32:
the small constant is zero in half precision and equal rows would give an infinite loss.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fm3d_core.pretraining.distributed import gathered

_EPSILON = 1e-8  # as published, both in the distance and in the logarithm


def koleo_loss(features: torch.Tensor, *, across_ranks: bool = False) -> torch.Tensor:
    """Mean over rows of -log of the distance to the nearest other row, rows normalised to length one.

    Args:
        features: (n, C). One row alone, and equal rows, give a large but finite loss and finite gradients.
        across_ranks: look for neighbours among the rows of all processes (equal n); published: within the process.

    Returns:
        float32 scalar; 0 without rows.
    """
    if not len(features):
        return features.float().sum()
    with torch.autocast(features.device.type, enabled=False):
        own = F.normalize(features.float(), eps=_EPSILON)
        everyone, first = gathered(own) if across_ranks else (own, 0)
        with torch.no_grad():
            likeness = own @ everyone.T
            row = torch.arange(len(own), device=own.device)
            likeness[row, row + first] = -1
            nearest = likeness.argmax(dim=1)
        distance = (own - everyone[nearest] + _EPSILON).norm(dim=1)
        return -torch.log(distance + _EPSILON).mean()
