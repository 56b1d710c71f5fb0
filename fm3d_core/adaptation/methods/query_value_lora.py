"""LoRA on query and value of a fused projection, key untouched (Hu et al. 2021, section 4.2), through peft.

Public weights of 3DINO's FLARE 2025 submission have it as one ``lora_A`` (2 r, C) and one ``lora_B`` (2 C, r) per fused
projection, rows [query; value]: query += lora_B[:C] lora_A[:r] x and value += lora_B[C:] lora_A[r:] x, times alpha / r.
The same is an ordinary LoRA of rank 2 r on the fused projection whose B (3 C, 2 r), rows [query; key; value], is
zero outside of two blocks:

    query  [ lora_B[:C]      0      ]
    key    [     0           0      ]
    value  [     0       lora_B[C:] ]

so peft merges, stores and switches it as any other; only the two blocks get gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.lora import inject_lora
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fm3d_core.models.network import DenseNetwork


class QueryValueLoRA:
    """Low-rank updates of query and value in every fused attention projection; the head trains fully.

    Args:
        rank: of the update of each of the two (FLARE submission: 16).
        alpha: an update is scaled by ``alpha / rank`` (FLARE submission: 1).
    """

    name = "lora_query_value"
    about = "low-rank updates of attention's query and value and a new head, as in 3DINO's FLARE 2025 submission"
    learning_rate = 1e-3
    linear_head = False
    frozen_backbone = False

    def __init__(self, rank: int = 16, alpha: float = 1) -> None:
        self.rank, self.alpha = rank, alpha

    def apply(self, network: DenseNetwork) -> None:
        """Inject the low-rank layers into the backbone.

        Raises:
            SettingsError: the backbone has no fused attention projections.
        """
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        targets = [name for name in network.backbone.lora_targets() if name.endswith("attn.qkv")]
        if not targets:
            raise SettingsError(
                f"method '{self.name}' needs attention, which this backbone has not", remedy="Choose method lora"
            )
        inject_query_value_lora(network.backbone, targets, rank=self.rank, alpha=self.alpha)


def inject_query_value_lora(backbone: nn.Module, targets: list[str], *, rank: int, alpha: float) -> None:
    """Put the update into the fused projections named, (3 C, C) each, in place."""
    # peft divides by the rank it is told, which is that of both updates together
    inject_lora(backbone, targets, rank=2 * rank, alpha=2 * alpha)
    for name in targets:
        weight: torch.Tensor = backbone.get_submodule(name).lora_B["default"].weight  # type: ignore[union-attr,index]
        weight.register_hook(_keep_blocks)


def to_peft(lora_a: torch.Tensor, lora_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """peft's A (2 r, C) and B (3 C, 2 r) from a public file's ``lora_A`` (2 r, C) and ``lora_B`` (2 C, r).

    Raises:
        ValueError: shapes that do not belong together.
    """
    rank, width = lora_b.shape[1], len(lora_b) // 2
    if tuple(lora_a.shape) != (2 * rank, width) or len(lora_b) != 2 * width:
        raise ValueError(f"lora_A {tuple(lora_a.shape)} and lora_B {tuple(lora_b.shape)} are not of one projection")
    fused = lora_b.new_zeros(3 * width, 2 * rank)
    fused[:width, :rank] = lora_b[:width]
    fused[2 * width :, rank:] = lora_b[width:]
    return lora_a.clone(), fused


def from_peft(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of :func:`to_peft`.

    Raises:
        ValueError: B has entries outside of its two blocks, so it is no update of query and value alone.
    """
    import torch

    if not torch.equal(b, _keep_blocks(b)):
        raise ValueError("this LoRA mixes query and value or changes the key")
    width, rank = len(b) // 3, b.shape[1] // 2
    return a.clone(), torch.cat([b[:width, :rank], b[2 * width :, rank:]])


def _keep_blocks(b: torch.Tensor) -> torch.Tensor:
    """``b`` (3 C, 2 r) with zeros outside of the query's and the value's block."""
    width, rank = len(b) // 3, b.shape[1] // 2
    kept = b.new_zeros(b.shape)
    kept[:width, :rank] = b[:width, :rank]
    kept[2 * width :, rank:] = b[2 * width :, rank:]
    return kept
