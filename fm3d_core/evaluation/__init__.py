"""Evaluation: how good a prediction is, in figures and in pictures."""

from fm3d_core.evaluation.dice import dice_per_label, mean_dice
from fm3d_core.evaluation.pictures import ComparisonRow, draw_comparison

__all__ = ["ComparisonRow", "dice_per_label", "draw_comparison", "mean_dice"]
