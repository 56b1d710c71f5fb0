"""LoRA in the later layers only."""

from __future__ import annotations

from fm3d_core.adaptation.methods.lora import LoRA


class LateLoRA(LoRA):
    """LoRA in the later half of the layers that the backbone names.

    That is the later half of a ViT's blocks, the coarser stages of a Swin transformer, and a U-Net's decoder with the
    end of its encoder. No gradient goes through what is before, which spares that time and memory.
    """

    name = "lora_late"
    about = "as lora, in the later half of the layers only; a smaller file"

    def choose(self, targets: list[str]) -> list[str]:
        """The later half."""
        return targets[len(targets) // 2 :]
