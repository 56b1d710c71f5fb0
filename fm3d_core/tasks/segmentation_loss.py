"""Dice plus cross-entropy, also where only a part of a volume, or some of the structures, were annotated."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from fm3d_core.tasks.dice_cross_entropy import dice_cross_entropy
from fm3d_core.volumes import IGNORED


class SegmentationLoss:
    """Dice plus cross-entropy; the Dice sums run over the whole batch.

    That is steadier than sums per crop when a structure is missing in one. Voxels that were not annotated count
    nowhere. In an image in which some structures were not annotated, "background" only says that a voxel is none of the
    annotated ones: there the probabilities of the others are added to that of the background, the marginal loss of
    Shi et al. 2021 (Medical Image Analysis 70). The mean of the Dice is over the classes annotated in some image.
    """

    def __init__(self) -> None:
        self._dice = DiceLoss(batch=True, reduction="none")

    def __call__(
        self, scores: torch.Tensor, target: torch.Tensor, annotated: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A scalar; 0 if no voxel of the batch is known.

        Args:
            scores: (B, classes, X, Y, Z) logits.
            target: (B, 1, X, Y, Z) classes in whole numbers, 255 where nothing was annotated.
            annotated: (B, classes) bool; None: all classes of all images.
        """
        known = target != IGNORED
        everywhere = annotated is None or bool(annotated.all())
        if everywhere and bool(known.all()):
            return dice_cross_entropy(scores, target[:, 0].long())
        scores = scores.float()
        if annotated is None:
            annotated = scores.new_ones(scores.shape[:2], dtype=torch.bool)
        annotated = annotated.to(scores.device)
        if not everywhere:
            scores = _merged_into_background(scores, annotated)
        classes = target.masked_fill(~known, 0)[:, 0].long()
        each = F.cross_entropy(scores, classes, reduction="none")
        cross_entropy = (each * known[:, 0]).sum() / known.sum().clamp(min=1)
        truth = F.one_hot(classes, scores.shape[1]).movedim(-1, 1).to(scores)
        dice = self._dice(scores.softmax(1) * known, truth * known).flatten()
        return dice[annotated.any(0)].mean() + cross_entropy


def _merged_into_background(scores: torch.Tensor, annotated: torch.Tensor) -> torch.Tensor:
    """Scores whose softmax gives the background also what the structures without annotation had; these get 0."""
    others = ~annotated
    others[:, 0] = True
    background = scores.masked_fill(~others[..., None, None, None], -torch.inf).logsumexp(1, keepdim=True)
    rest = scores.masked_fill(others[..., None, None, None], -torch.inf)
    return torch.cat([background, rest[:, 1:]], dim=1)
