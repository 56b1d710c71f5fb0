"""Full finetuning: every weight trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.adaptation.methods.base import OptimiserName
    from fm3d_core.models.network import DenseNetwork


class Full:
    """All weights of backbone and head train; the adapter holds them all."""

    name = "full"
    about = "all weights train; best without pretrained weights, largest file"
    learning_rate = 2e-3
    optimiser: OptimiserName = "muon"
    linear_head = False
    frozen_backbone = False

    def apply(self, network: DenseNetwork) -> None:
        """Make every parameter trainable."""
        network.requires_grad_(True)
