"""Dice and cross-entropy of the voxels, and cross-entropy of the volume's class where the crop shows enough."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fm3d_core.tasks.segmentation_loss import SegmentationLoss
from fm3d_core.volumes import IGNORED


class JointLoss:
    """The sum of both, each of weight 1 (3DINO's FLARE 2025 entry for EMIDEC).

    Args:
        foreground: least share of a crop's voxels that are of a structure for its class to count.
    """

    def __init__(self, foreground: float) -> None:
        self.foreground = foreground
        self._voxels = SegmentationLoss()

    def __call__(
        self,
        scores: tuple[torch.Tensor, torch.Tensor],
        target: torch.Tensor,
        annotated: torch.Tensor | None,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """A scalar.

        Args:
            scores: (B, classes, X, Y, Z) and (B, image_labels).
            target: (B, 1, X, Y, Z) classes, 255 where nothing was annotated.
            annotated: as of :class:`SegmentationLoss`.
            values: (B, 1) classes of the volumes.
        """
        voxels, whole = scores
        loss = self._voxels(voxels, target, annotated)
        shown = ((target > 0) & (target != IGNORED)).flatten(1).float().mean(1) > self.foreground
        if not bool(shown.any()):
            return loss
        return loss + F.cross_entropy(whole[shown].float(), values[shown, 0].long())
