"""AdaptFormer (Chen et al. 2022): a small bottleneck beside the feed-forward part of every transformer block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.base import train_only
from fm3d_core.adaptation.methods.blocks import block_width, transformer_blocks
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class AdaptFormer:
    """``x + MLP(norm(x)) + scale * up(ReLU(down(norm(x))))``, as in the paper's equations; and the head trains.

    The bottleneck is beside the feed-forward part and its LayerScale, whose small factors would silence it.

    Args:
        rank: of the bottleneck (FSEFT: 16).
        scale: of what it adds (paper: 0.1).
    """

    name = "adaptformer"
    about = "a small bottleneck beside every transformer block's feed-forward part and a new head; small file"
    learning_rate = 2e-3
    linear_head = False
    frozen_backbone = False

    def __init__(self, rank: int = 16, scale: float = 0.1) -> None:
        self.rank, self.scale = rank, scale

    def apply(self, network: DenseNetwork) -> None:
        """Put the bottlenecks into the backbone.

        Raises:
            SettingsError: the backbone has no transformer blocks.
        """
        from torch import nn

        from fm3d_core.models.bottlenecks import Bottleneck, Parallel

        blocks = transformer_blocks(network.backbone)
        if not blocks:
            raise SettingsError(
                f"method '{self.name}' needs transformer blocks, which this backbone has not",
                remedy="Choose method cnn_adapter or lora",
            )
        added: list[nn.Parameter] = []
        for block in blocks:
            bottleneck = Bottleneck(block_width(block), self.rank, self.scale)
            branch = block.mlp
            if hasattr(block, "ls2"):
                branch, block.ls2 = nn.Sequential(block.mlp, block.ls2), nn.Identity()  # type: ignore[arg-type]
            block.mlp = Parallel(branch, bottleneck)  # type: ignore[arg-type]
            added.extend(bottleneck.parameters())
        train_only(network, added)
