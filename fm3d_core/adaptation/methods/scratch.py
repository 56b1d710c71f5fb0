"""Training from scratch: every weight trains, from random ones; what pretraining is measured against."""

from __future__ import annotations

from fm3d_core.adaptation.methods.full import Full


class Scratch(Full):
    """Full finetuning of random weights, also where some come with the package."""

    name = "scratch"
    about = "all weights train, from random ones: the comparison that pretrained weights must win"
