"""Linear probe: a linear classifier on the features of the frozen backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class LinearProbe:
    """Only the linear head trains, on features that are computed once per volume."""

    name = "linear_probe"
    about = "a linear layer on frozen features; seconds, a few kilobytes, needs good pretrained weights"
    learning_rate = 1e-2
    linear_head = True
    frozen_backbone = True

    def apply(self, network: DenseNetwork) -> None:
        """Freeze the backbone."""
        network.backbone.requires_grad_(False)
        network.head.requires_grad_(True)
