"""ARENA (2025, arXiv 2507.15793): LoRA whose rank adapts, by an l1 penalty on a trained scale of every rank.

The update is B diag(e) A with e zero at the start. After each step of the optimiser e is soft-thresholded, the proximal
step of the penalty: ranks that do not help stay at, or go back to, exactly zero. AdaLoRA's layers of peft have the
same form, but for linear layers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.lora import inject_lora

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.network import DenseNetwork


class ARENA:
    """Low-rank updates of the layers the backbone names, with a sparse scale of each rank; the head trains fully.

    Args:
        rank: the largest of each update.
        alpha: the update is scaled by ``alpha / rank``.
        penalty: of the sum of the scales' magnitudes. A step takes ``penalty`` times the learning rate off each; AdamW
            moves a scale by at most about the learning rate, so that it must be below 1.
    """

    name = "arena"
    about = "as lora, with ranks that go to zero where they do not help"
    learning_rate = 2e-3
    linear_head = False
    frozen_backbone = False

    def __init__(self, rank: int = 8, alpha: int = 16, penalty: float = 0.1) -> None:
        self.rank, self.alpha, self.penalty = rank, alpha, penalty

    def apply(self, network: DenseNetwork) -> None:
        """Inject the low-rank layers into the backbone.

        Raises:
            RuntimeError: peft adapted other layers than the backbone named.
        """
        import math

        from torch import nn
        from torch.nn.utils import parametrize

        from fm3d_core.models.bottlenecks import RankScale

        network.requires_grad_(False)
        network.head.requires_grad_(True)
        backbone: nn.Module = network.backbone
        targets = network.backbone.lora_targets()
        inject_lora(backbone, targets, rank=self.rank, alpha=self.alpha)
        for name in targets:
            up: nn.Module = backbone.get_submodule(name).lora_B["default"]  # type: ignore[index,assignment]
            nn.init.kaiming_uniform_(up.weight, a=math.sqrt(5))  # type: ignore[arg-type]  # e is zero instead of B
            parametrize.register_parametrization(up, "weight", RankScale(self.rank))

    def after_step(self, network: DenseNetwork, learning_rate: float) -> None:
        """Take the penalty's part off every scale, in place."""
        import torch

        threshold = self.penalty * learning_rate
        with torch.no_grad():
            for scale in rank_scales(network):
                scale.copy_(scale.sign() * (scale.abs() - threshold).clamp(min=0))


def rank_scales(network: nn.Module) -> list[nn.Parameter]:
    """The scale (rank,) of each update."""
    from fm3d_core.models.bottlenecks import RankScale

    return [module.scale for module in network.modules() if isinstance(module, RankScale)]
