"""Evaluation: how good a prediction is, in figures and in pictures."""

from fm3d_core.evaluation.dice import dice_per_label, mean_dice
from fm3d_core.evaluation.intervals import (
    MeanInterval,
    PairedComparison,
    compare_paired,
    mean_with_interval,
    verdict,
)
from fm3d_core.evaluation.pictures import ComparisonRow, draw_comparison
from fm3d_core.evaluation.scores import TOLERANCE, StructureScores, scores_of_masks, scores_per_label

__all__ = [
    "TOLERANCE",
    "ComparisonRow",
    "MeanInterval",
    "PairedComparison",
    "StructureScores",
    "compare_paired",
    "dice_per_label",
    "draw_comparison",
    "mean_dice",
    "mean_with_interval",
    "scores_of_masks",
    "scores_per_label",
    "verdict",
]
