"""Supervised contrast between voxels: same structure together, others apart (Khosla et al. 2020, equation 2)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def supervised_contrast(embedded: torch.Tensor, label: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of voxels (n, C) with labels (n,): a scalar.

    For each voxel the mean log-probability of its partners (the others of its label) among all others, by cosine
    similarity over the temperature. Voxels without a partner are left out; without any partner the loss is 0.
    """
    unit = F.normalize(embedded.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    log_probability = (similarity - similarity.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    partner = (label[:, None] == label[None]) & ~itself
    count = partner.sum(1)
    each = -(log_probability * partner).sum(1) / count.clamp(min=1)
    paired = count > 0
    return (each * paired).sum() / paired.sum().clamp(min=1)
