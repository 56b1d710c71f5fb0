"""Compacter (Karimi Mahabadi et al. 2021): adapters whose weights are sums of Kronecker products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.base import train_only
from fm3d_core.adaptation.methods.blocks import block_width, transformer_blocks
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.bottlenecks import Behind
    from fm3d_core.models.network import DenseNetwork


class Compacter:
    """A residual adapter behind attention and feed-forward of every transformer block, and the head train.

    Residual and zero at the start, as in the paper; FSEFT's replaces what the blocks computed.

    Args:
        rank: inner width of an adapter.
        number: of Kronecker products, to which all adapters share the small factors.
    """

    name = "compacter"
    about = "adapters of Kronecker products behind attention and feed-forward and a new head; tiny file"
    learning_rate = 5e-3
    linear_head = False
    frozen_backbone = False

    def __init__(self, rank: int = 16, number: int = 4) -> None:
        self.rank, self.number = rank, number

    def apply(self, network: DenseNetwork) -> None:
        """Put the adapters into the backbone.

        Raises:
            SettingsError: the backbone has no transformer blocks, or of a width that does not divide.
        """
        import torch
        from torch import nn

        blocks = transformer_blocks(network.backbone)
        if not blocks or any(block_width(block) % self.number for block in blocks):
            raise SettingsError(
                f"method '{self.name}' needs transformer blocks of a width that is a multiple of {self.number}, "
                "which this backbone has not",
                remedy="Choose method cnn_adapter or lora",
            )
        shared = nn.Parameter(torch.randn(self.number, self.number, self.number) / self.number)
        added = [shared]
        for block in blocks:
            for owner, name in ((block.attn, "proj"), (block, "mlp")):
                behind = self._adapter(getattr(owner, name), shared, block_width(block))
                setattr(owner, name, behind)
                added += [*behind.down.parameters(), *behind.up.parameters()]
        train_only(network, added)

    def _adapter(self, layer: nn.Module, shared: nn.Parameter, width: int) -> Behind:
        from fm3d_core.models.bottlenecks import Behind, KroneckerLinear

        down = KroneckerLinear(shared, width, self.rank)
        return Behind(layer, down, KroneckerLinear(shared, self.rank, width, zero=True))
