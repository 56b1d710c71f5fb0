"""InfoNCE: a view is nearer to the other view of its crop than to all views of other crops."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def contrastive_loss(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over all 2N views i of -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t)), in float32.

    s is the cosine of two embeddings, j the other view of the same crop. Tang et al. 2022, the contrastive term of
    section 3.2, after Chen et al. 2020 (SimCLR, equation 1).

    Args:
        first, second: (N, D) embeddings of the two views, row i of both from crop i.
    """
    with torch.autocast(first.device.type, enabled=False):
        views = F.normalize(torch.cat([first, second]).float(), dim=1)
        cosines = views @ views.T / temperature
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        other_view = torch.arange(len(views), device=views.device).roll(len(first))
        return F.cross_entropy(cosines.masked_fill(itself, -torch.inf), other_view)
