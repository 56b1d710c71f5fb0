"""DoRA (Liu et al. 2024) through peft: LoRA for the direction of each weight vector, and its length."""

from __future__ import annotations

from fm3d_core.adaptation.methods.lora import LoRA


class DoRA(LoRA):
    """LoRA's layers; the length of each output's weight vector trains too."""

    name = "dora"
    about = "as lora, with a trained length of every weight vector; a little larger, slower steps"
    magnitudes = True
