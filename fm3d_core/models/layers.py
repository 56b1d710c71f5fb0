"""Small layers of the 3D vision transformer: attention, feed-forward, layer scale, stochastic depth.

Dosovitskiy et al. 2021 (ViT), Touvron et al. 2021 (LayerScale), Oquab et al. 2023 (DINOv2), Shazeer 2020 (SwiGLU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.linear import Linear
from fm3d_core.models.rotary import rotate

Shape = tuple[int, int]  # images of a batch, tokens per image
_LEAST_FOR_SUBSETS = 0.1  # below it, dropping whole images of a small batch would drop far more than asked for
PLAIN_TOKENS = 400  # of an image of 112^3 voxels: 344; measured: even at 513


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, C) with one fused projection, rows [Q; K; V], head-major."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, tokens: torch.Tensor, rotation: torch.Tensor | None = None) -> torch.Tensor:
        return self.proj(self._mix(self.qkv(tokens), rotation))

    def forward_packed(
        self, packed: torch.Tensor, shapes: Sequence[Shape], rotations: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """The same for several batches whose tokens are packed to (T, C): only tokens of one image see each other."""
        pieces = self.qkv(packed).split([batch * count for batch, count in shapes])
        mixed = [
            self._mix(piece.unflatten(0, shape), rotation).flatten(0, 1)
            for piece, shape, rotation in zip(pieces, shapes, rotations, strict=True)
        ]
        return self.proj(torch.cat(mixed))

    def attention_map(self, tokens: torch.Tensor, rotation: torch.Tensor | None = None) -> torch.Tensor:
        """The attention weights (B, H, N, N), rows sum to one."""
        query, key, _ = self._split(self.qkv(tokens), rotation)
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)

    def _mix(self, qkv: torch.Tensor, rotation: torch.Tensor | None) -> torch.Tensor:
        query, key, value = self._split(qkv, rotation)
        mixed = mix_values(query, key, value)  # (B, H, N, C/H)
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, qkv: torch.Tensor, rotation: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value  # three of (B, H, N, C/H)


def mix_values(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention of (B, H, N, D).

    On a CPU in bfloat16 the backward pass of PyTorch's takes twice as long as that of plain products. They keep the
    weights (B, H, N, N), which is why they are used for few tokens alone.
    """
    plain = query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[-2] <= PLAIN_TOKENS
    if not (plain and torch.is_grad_enabled() and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value)
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


class FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class SwiGLU(nn.Module):
    """Gated feed-forward: Linear(SiLU(a) * b); the hidden width is 2/3 of ``hidden``, rounded up to 8 as in DINOv2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """Multiplies each channel by a learned factor, ``initial`` at the start."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training drops the whole branch of a sample with ``probability``, scaling the others."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor, shapes: Sequence[Shape] | None = None) -> torch.Tensor:
        """``branch`` (B, ...), or with ``shapes`` the tokens of several batches packed to (T, C)."""
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        samples = branch.shape[0] if shapes is None else sum(batch for batch, _ in shapes)
        mask = (torch.rand(samples, device=branch.device) < keep).to(branch.dtype) / keep
        if shapes is not None:
            counts = [count for batch, count in shapes for _ in range(batch)]
            mask = torch.cat([factor.expand(count) for factor, count in zip(mask, counts, strict=True)])
        return branch * mask.view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


class Block(nn.Module):
    """Pre-norm transformer block: attention and feed-forward, each with LayerScale and stochastic depth."""

    def __init__(
        self, width: int, heads: int, hidden: int, layer_scale: float, drop_path: float, feed_forward: str
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = SwiGLU(width, hidden) if feed_forward == "swiglu" else FeedForward(width, hidden)
        self.ls2 = LayerScale(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor, rotation: torch.Tensor | None = None) -> torch.Tensor:
        tokens = tokens + self.drop_path(self.ls1(self.attn(self.norm1(tokens), rotation)))
        return tokens + self.drop_path(self.ls2(self.mlp(self.norm2(tokens))))

    def forward_packed(
        self, packed: torch.Tensor, shapes: Sequence[Shape], rotations: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """The same for several batches of images, their tokens packed to (T, C).

        In training with much stochastic depth each branch works on a subset of each batch's images only, as 3DINO's
        does: max(1, int(B * (1 - probability))) random ones, scaled by B over their number.
        """
        if self.training and self.drop_path.probability > _LEAST_FOR_SUBSETS:
            chosen = _draw_subset(shapes, self.drop_path.probability, packed.device)
            branch = self.norm1(packed[chosen.rows])
            branch = self.attn.forward_packed(branch, chosen.shapes, chosen.pick(rotations))
            branch = self.ls1(branch)
            packed = packed.index_add(0, chosen.rows, (branch * chosen.scale.to(branch.dtype)).to(packed.dtype))
            chosen = _draw_subset(shapes, self.drop_path.probability, packed.device)
            branch = self.ls2(self.mlp(self.norm2(packed[chosen.rows])))
            return packed.index_add(0, chosen.rows, (branch * chosen.scale.to(branch.dtype)).to(packed.dtype))
        attended = self.attn.forward_packed(self.norm1(packed), shapes, rotations)
        packed = packed + self.drop_path(self.ls1(attended), shapes)
        return packed + self.drop_path(self.ls2(self.mlp(self.norm2(packed))), shapes)


@dataclass(frozen=True)
class _Subset:
    """Some images of several packed batches: their rows (t,) in (T, C), what they count (t, 1), batch by batch."""

    rows: torch.Tensor
    scale: torch.Tensor
    shapes: list[Shape]
    images: list[torch.Tensor]

    def pick(self, rotations: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The chosen images' rotations; one that holds for all images of a batch stays."""
        return [
            turn[:, images] if turn is not None and turn.shape[1] > 1 else turn
            for turn, images in zip(rotations, self.images, strict=True)
        ]


def _draw_subset(shapes: Sequence[Shape], probability: float, device: torch.device) -> _Subset:
    kept = kept_images(shapes, probability)
    images = [torch.randperm(batch, device=device)[:keep] for (batch, _), keep in zip(shapes, kept, strict=True)]
    rows, scales, start = [], [], 0
    for (batch, count), chosen in zip(shapes, images, strict=True):
        places = start + chosen[:, None] * count + torch.arange(count, device=device)
        rows.append(places.flatten())
        scales.append(torch.full((places.numel(), 1), batch / len(chosen), device=device))
        start += batch * count
    pairs = [(keep, count) for keep, (_, count) in zip(kept, shapes, strict=True)]
    return _Subset(torch.cat(rows), torch.cat(scales), pairs, images)


def kept_images(shapes: Sequence[Shape], probability: float) -> list[int]:
    """Images of each batch that a branch works on in :meth:`Block.forward_packed` in training."""
    if probability <= _LEAST_FOR_SUBSETS:
        return [batch for batch, _ in shapes]
    return [max(int(batch * (1 - probability)), 1) for batch, _ in shapes]
