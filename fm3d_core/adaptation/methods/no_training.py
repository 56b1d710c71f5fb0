"""No training: the classifier that the weights bring, for structures that it knows by name (FSEFT's generalization)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class NoTraining:
    """Nothing trains; the adapter holds the classifier's rows, see :mod:`fm3d_core.adaptation.zero_shot`."""

    name = "none"
    about = "no training and no labels: the classifier of the weights, for structures it knows by name"
    learning_rate = 1e-3  # of nothing
    linear_head = True
    frozen_backbone = True

    def apply(self, network: DenseNetwork) -> None:
        """Freeze the backbone; the head is what the adapter keeps."""
        network.backbone.requires_grad_(False)
        network.head.requires_grad_(True)
