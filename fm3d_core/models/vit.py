"""A 3D vision transformer of DINOv2's shape; parameter names as in the public 3DINO weights, without block chunks.

Xu et al. 2025, "3DINO" (npj Digital Medicine, doi 10.1038/s41746-025-02035-w); Oquab et al. 2023 (DINOv2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.models.layers import Block


class PatchEmbedding(nn.Module):
    """Cuts (B, C, X, Y, Z) into patches and projects each: (B, N, width), N in X, Y, Z order (Z fastest)."""

    def __init__(self, patch_size: Size, input_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(input_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class ViTFeatures:
    """The last layer's output.

    Attributes:
        cls_token: (B, C), normalised.
        patch_tokens: (B, N, C), normalised.
        before_norm: (B, 1 + N, C), before the final norm.
    """

    cls_token: torch.Tensor
    patch_tokens: torch.Tensor
    before_norm: torch.Tensor


class VisionTransformer3D(nn.Module):
    """3D ViT with a class token and learned positions on a cubic grid, interpolated to any input size.

    Args:
        image_size: edge of the cube (voxels) whose patch grid the position embedding has.
        patch_size: edge of a patch (voxels) along each axis.
        input_channels: image channels.
        width, depth, heads: of the transformer.
        mlp_ratio: hidden width of the feed-forward over ``width``.
        feed_forward: "mlp" or "swiglu".
        layer_scale: initial LayerScale factor (3DINO: 1e-5).
        drop_path: probability of stochastic depth, the same in all blocks (3DINO's student: 0.3).
        position_interpolation: "published" keeps the 0.1 offset in the sampling scale with which 3DINO and DINOv2
            weights were trained and published; "plain" interpolates to the size itself.

    Raises:
        ValueError: ``width`` is not a multiple of ``heads``.
    """

    kind: Literal["tokens"] = "tokens"

    def __init__(
        self,
        image_size: int = 96,
        patch_size: int | Size = 16,
        input_channels: int = 1,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        feed_forward: Literal["mlp", "swiglu"] = "mlp",
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        position_interpolation: Literal["published", "plain"] = "published",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.config: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        x, y, z = (patch_size,) * 3 if isinstance(patch_size, int) else patch_size
        self.patch_size: Size = (x, y, z)
        self.width, self.input_channels = width, input_channels
        self.position_interpolation = position_interpolation
        self.grid_edge = max(image_size // max(self.patch_size), 1)
        self.patch_embed = PatchEmbedding(self.patch_size, input_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_edge**3, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        hidden = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, layer_scale, drop_path, feed_forward) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        # four layers, evenly spaced, the last one included: 5, 11, 17, 23 of 24 (UNETR, Hatamizadeh et al. 2022)
        self.feature_layers = tuple(depth * (i + 1) // 4 - 1 for i in range(4)) if depth >= 4 else (depth - 1,) * 4
        self.feature_channels = (width,) * 4
        self.feature_strides = (self.patch_size,) * 4
        self.size_multiple = self.patch_size
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The normalised class token (B, C) of ``image`` (B, input_channels, X, Y, Z)."""
        return self.forward_features(image).cls_token

    def forward_features(self, image: torch.Tensor, masks: torch.Tensor | None = None) -> ViTFeatures:
        """All tokens of the last layer; ``masks`` (B, N) bool: patches replaced by the mask token."""
        tokens = self.embed(image, masks)
        for block in self.blocks:
            tokens = block(tokens)
        normalised = self.norm(tokens)
        return ViTFeatures(normalised[:, 0], normalised[:, 1:], tokens)

    def embed(self, image: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """The tokens that enter the first block: (B, 1 + N, C)."""
        tokens = self.patch_embed(image)
        if masks is not None:
            tokens = torch.where(masks.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        return tokens + self.position_embedding(self.grid_of(image)).to(tokens.dtype)

    def grid_of(self, image: torch.Tensor) -> Size:
        """Patches along each axis of ``image``."""
        x, y, z = (size // patch for size, patch in zip(image.shape[-3:], self.patch_size, strict=True))
        return x, y, z

    def position_embedding(self, grid: Size) -> torch.Tensor:
        """The position embedding (1, 1 + N, C) on another patch grid."""
        edge = self.grid_edge
        if grid == (edge, edge, edge):
            return self.pos_embed
        positions = self.pos_embed[:, 1:].float().reshape(1, edge, edge, edge, -1).permute(0, 4, 1, 2, 3)
        if self.position_interpolation == "published":
            factors = [(size + 0.1) / edge for size in grid]
            positions = F.interpolate(positions, scale_factor=factors, mode="trilinear", align_corners=False)
        else:
            positions = F.interpolate(positions, size=grid, mode="trilinear", align_corners=False)
        if tuple(positions.shape[-3:]) != grid:
            raise ValueError(f"position grid {tuple(positions.shape[-3:])} does not match the patch grid {grid}")
        positions = positions.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], positions], dim=1)

    def intermediate_layers(
        self, image: torch.Tensor, layers: int | Sequence[int], *, norm: bool = True
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Class token (B, C) and patch tokens (B, N, C) of the last ``layers`` blocks, or of the blocks named."""
        depth = len(self.blocks)
        wanted = range(depth - layers, depth) if isinstance(layers, int) else layers
        tokens, kept = self.embed(image), {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in wanted:
                kept[index] = self.norm(tokens) if norm else tokens
        return [(kept[index][:, 0], kept[index][:, 1:]) for index in wanted]

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Patch tokens of four evenly spaced layers as maps (B, C, X/p, Y/p, Z/p), shallow to deep, normalised."""
        grid = self.grid_of(image)
        layers = self.intermediate_layers(image, self.feature_layers)
        return [patches.transpose(1, 2).unflatten(2, grid) for _, patches in layers]

    def last_attention(self, image: torch.Tensor) -> torch.Tensor:
        """Attention weights (B, heads, 1 + N, 1 + N) of the true last block."""
        tokens = self.embed(image)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        return last.attn.attention_map(last.norm1(tokens))  # type: ignore[union-attr,operator]

    def lora_targets(self) -> list[str]:
        """The fused projections of every block (Hu et al. 2021: attention weights)."""
        return [f"blocks.{i}.attn.{name}" for i in range(len(self.blocks)) for name in ("qkv", "proj")]
