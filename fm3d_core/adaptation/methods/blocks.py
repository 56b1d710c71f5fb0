"""Where a transformer's blocks have their branches, whichever backbone they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def transformer_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a ViT or a Swin transformer, shallow to deep: each has ``norm2``, ``mlp`` and ``attn``."""
    return [module for module in backbone.modules() if all(hasattr(module, part) for part in ("norm2", "mlp", "attn"))]


def block_width(block: nn.Module) -> int:
    """Channels of a block's tokens."""
    return int(block.norm2.normalized_shape[0])  # type: ignore[union-attr,index]
