"""Sigmoid Dice of regions that overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from monai.losses import DiceLoss

from fm3d_core.volumes import IGNORED


class RegionsLoss:
    """MONAI's Dice loss with squared denominator, smooth_nr 0 and smooth_dr 1e-5, as 3DINO trains on BraTS.

    Args:
        membership: (1 + parts, regions), see :meth:`fm3d_core.tasks.regions.RegionsTask.membership`.
    """

    def __init__(self, membership: npt.NDArray[np.bool_]) -> None:
        self.membership = torch.from_numpy(membership)
        self._dice = DiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=1e-5, reduction="none")

    def __call__(
        self, scores: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A scalar, the mean over images and regions.

        Args:
            scores: (B, regions, X, Y, Z) logits.
            target: (B, 1, X, Y, Z) whole numbers: 0, the parts from 1 on, 255 where nothing was annotated.
            annotated: (B, 1 + parts) bool; a region counts where all of its parts were annotated. None: everywhere.
        """
        known = target != IGNORED
        parts = target.masked_fill(~known, 0)[:, 0].long()
        truth = self.membership.to(scores.device)[parts].movedim(-1, 1).float()
        each = self._dice(scores.float().sigmoid() * known, truth * known).flatten(1)  # (B, regions)
        if annotated is None:
            return each.mean()
        unknown = ~annotated.to(scores.device)  # (B, 1 + parts)
        counts = (unknown.float() @ self.membership[: unknown.shape[1]].to(scores.device).float()) == 0
        return (each * counts).sum() / counts.sum().clamp(min=1)
