"""ViT-Adapter in three dimensions: maps of four resolutions from a plain ViT.

Chen et al. 2023 (ViT-Adapter); Xu et al. 2025 (3DINO's 3D form). Parameter names are those of 3DINO's released
decoders, apart from the ViT's block chunks (:func:`fm3d_core.models.vit.flat_block_name`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fm3d_core.models.backbone import Size
from fm3d_core.models.channels import fold_channels, fold_spacing, unfold_channels
from fm3d_core.models.deformable_attention import AxisOrder, DeformableAttention3D, voxel_centres
from fm3d_core.models.half_resolution import HalfResolutionMap
from fm3d_core.models.layers import DropPath
from fm3d_core.models.linear import Linear
from fm3d_core.models.rotary import Spacing
from fm3d_core.models.spatial_prior import SpatialPrior
from fm3d_core.models.vit import VisionTransformer3D

_QUERIES = 2048  # of the prior's tokens at a time: their intermediate values stay in a processor's cache


class DepthwiseConvolution(nn.Module):
    """A 3x3x3 convolution per channel on each level of packed tokens (B, N, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, kernel_size=3, padding=1, groups=width)

    def forward(self, tokens: torch.Tensor, grids: Sequence[Size]) -> torch.Tensor:
        levels = tokens.split([math.prod(grid) for grid in grids], dim=1)
        maps = (self.dwconv(to_map(level, grid)) for level, grid in zip(levels, grids, strict=True))
        return torch.cat([to_tokens(level) for level in maps], dim=1)


class ConvolutionalFeedForward(nn.Module):
    """Linear, depthwise convolution, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.dwconv = DepthwiseConvolution(hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, tokens: torch.Tensor, grids: Sequence[Size]) -> torch.Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(tokens), grids)))


class Injector(nn.Module):
    """Adds to the ViT's patch tokens what they gather from the prior's three levels."""

    def __init__(self, width: int, attention: dict[str, Any]) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.feat_norm = nn.LayerNorm(width, eps=1e-6)
        self.attn = DeformableAttention3D(width, levels=3, **attention)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(
        self, query: torch.Tensor, centres: torch.Tensor, prior: torch.Tensor, grids: Sequence[Size]
    ) -> torch.Tensor:
        parts = prior.split(_QUERIES, dim=1)
        projected = torch.cat([self.attn.value_proj(self.feat_norm(part)) for part in parts], dim=1)
        return self.gamma * self.attn.gather(self.query_norm(query), centres, projected, grids)


class Extractor(nn.Module):
    """Adds to the prior's tokens what they gather from the ViT's patch tokens, then a feed-forward.

    In inference the prior's tokens are overwritten, a few at a time: they are many.
    """

    def __init__(self, width: int, attention: dict[str, Any], ffn_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.feat_norm = nn.LayerNorm(width, eps=1e-6)
        self.attn = DeformableAttention3D(width, levels=1, **attention)
        self.ffn = ConvolutionalFeedForward(width, int(width * ffn_ratio))
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, prior: torch.Tensor, centres: torch.Tensor, grids: Sequence[Size], tokens: torch.Tensor, grid: Size
    ) -> torch.Tensor:
        projected = self.attn.value_proj(self.feat_norm(tokens))
        if self.training or torch.is_grad_enabled():
            prior = prior + self.attn.gather(self.query_norm(prior), centres, projected, [grid])
            return prior + self.drop_path(self.ffn(self.ffn_norm(prior), grids))
        parts = prior.split(_QUERIES, dim=1)
        for part, places in zip(parts, centres.split(_QUERIES), strict=True):
            part += self.attn.gather(self.query_norm(part), places, projected, [grid])
        hidden = torch.cat([self.ffn.fc1(self.ffn_norm(part)) for part in parts], dim=1)
        hidden = F.gelu(self.ffn.dwconv(hidden, grids))
        for part, inner in zip(parts, hidden.split(_QUERIES, dim=1), strict=True):
            part += self.ffn.fc2(inner)
        return prior


class Interaction(nn.Module):
    """Injector, a stage of the ViT's blocks, extractor; the last one extracts three times."""

    def __init__(
        self, width: int, attention: dict[str, Any], ffn_ratio: float, drop_path: float, extra: int = 0
    ) -> None:
        super().__init__()
        self.injector = Injector(width, attention)
        self.extractor = Extractor(width, attention, ffn_ratio, drop_path)
        if extra:
            self.extra_extractors = nn.ModuleList(
                Extractor(width, attention, ffn_ratio, drop_path) for _ in range(extra)
            )

    @property
    def extractors(self) -> list[nn.Module]:
        """All extractors, in order."""
        return [self.extractor, *getattr(self, "extra_extractors", ())]


def to_map(tokens: torch.Tensor, grid: Size) -> torch.Tensor:
    """(B, X * Y * Z, C) as (B, C, X, Y, Z); a view, in channels-last layout."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, X, Y, Z) as (B, X * Y * Z, C)."""
    return maps.flatten(2).transpose(1, 2)


class ViTAdapter(nn.Module):
    """A pyramid backbone around a ViT of any patch size, depth and width.

    The prior's pyramid has 1/2 to 1/16 of the image's size whatever the patch; the ViT keeps its own grid. Stages of
    blocks are as equal as the depth allows.

    Args:
        vit: its parameters are trained unless the caller freezes them. A one-channel ViT sees the channels of the
            image one by one, and its features are merged.
        input_channels: image channels.
        prior_width: channels of the prior's first level.
        heads, points, value_ratio: of the deformable attention.
        ffn_ratio, drop_path: of the extractors' feed-forward.
        axis_order: "corrected", or "3dino" for weights that were trained with permuted axes.

    Attributes:
        activation_checkpointing: set to True to recompute the interactions in the backward pass.

    Raises:
        ValueError: fewer blocks than the four stages, or channels that the ViT cannot take.
    """

    kind: Literal["pyramid"] = "pyramid"

    def __init__(
        self,
        vit: VisionTransformer3D,
        input_channels: int = 1,
        prior_width: int = 32,
        heads: int = 8,
        points: int = 4,
        value_ratio: float = 0.25,
        ffn_ratio: float = 0.25,
        drop_path: float = 0.2,
        axis_order: AxisOrder = "corrected",
    ) -> None:
        super().__init__()
        stages = 4
        depth, width = len(vit.blocks), vit.width
        if depth < stages:
            raise ValueError(f"a ViT-Adapter needs at least {stages} blocks, this ViT has {depth}")
        if vit.input_channels not in (1, input_channels):
            raise ValueError(f"the ViT takes {vit.input_channels} channels, the image has {input_channels}")
        self.config: dict[str, Any] = {
            "vit": vit.config,
            "input_channels": input_channels,
            "prior_width": prior_width,
            "heads": heads,
            "points": points,
            "value_ratio": value_ratio,
            "ffn_ratio": ffn_ratio,
            "axis_order": axis_order,
        }
        self.input_channels = input_channels
        self.folded = input_channels if vit.input_channels == 1 else 1
        self.activation_checkpointing = False
        self.feature_channels = (width,) * 4
        self.feature_strides: tuple[Size, ...] = tuple((stride,) * 3 for stride in (2, 4, 8, 16))
        x, y, z = (math.lcm(16, patch) for patch in vit.patch_size)
        self.size_multiple: Size = (x, y, z)
        bounds = [depth * stage // stages for stage in range(stages + 1)]
        self.stages = [range(first, after) for first, after in pairwise(bounds)]

        self.vit_model = vit
        self.spm = SpatialPrior(input_channels, prior_width, width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        attention = {"heads": heads, "points": points, "ratio": value_ratio, "axis_order": axis_order}
        self.interactions = nn.ModuleList(
            Interaction(width, attention, ffn_ratio, drop_path, extra=2 if stage == stages - 1 else 0)
            for stage in range(stages)
        )
        self.up = nn.ConvTranspose3d(width, width, kernel_size=2, stride=2)
        self.norm1 = nn.BatchNorm3d(width)
        for level in range(1, 5):
            self.add_module(f"channel_merge{level}", nn.Conv3d(width * self.folded, width, kernel_size=1))
            if level > 1:
                self.add_module(f"norm{level}", nn.BatchNorm3d(width))

    def features(self, image: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """Maps (B, width, X/s, Y/s, Z/s) of strides 2, 4, 8 and 16."""
        half, *coarser = self.levels(image, spacing)
        return [half.materialise(), *coarser]

    def levels(
        self, image: torch.Tensor, spacing: Spacing | None = None
    ) -> tuple[HalfResolutionMap, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As :meth:`features`, the finest map as the terms it is the sum of: it is the largest tensor by far."""
        stem, prior = self.spm(image)
        grids = [tuple(level.shape[-3:]) for level in prior]
        packed = torch.cat([to_tokens(level) + self.level_embed[index] for index, level in enumerate(prior)], dim=1)
        del prior
        packed, stages = self._interact(image, packed, grids, spacing)
        quarter, eighth, sixteenth = (
            to_map(tokens, grid)
            for tokens, grid in zip(packed.split([math.prod(grid) for grid in grids], dim=1), grids, strict=True)
        )
        half = HalfResolutionMap(stem, self.spm.fc1, quarter, self.up, self._merge(1, stages[0]), self.norm1)
        coarser = [quarter, eighth, sixteenth]
        for level in (2, 3, 4):
            added = F.interpolate(
                self._merge(level, stages[level - 1]), size=grids[level - 2], mode="trilinear", align_corners=False
            )
            coarser[level - 2] = self.get_submodule(f"norm{level}")(coarser[level - 2] + added)
        return half, coarser[0], coarser[1], coarser[2]

    def _interact(
        self, image: torch.Tensor, prior: torch.Tensor, grids: Sequence[Size], spacing: Spacing | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The prior's tokens after all interactions, and the ViT's maps (B * folded, width, ...) after each stage."""
        vit, leading = self.vit_model, self.vit_model.leading_tokens
        folded = fold_channels(image) if self.folded > 1 else image
        if spacing is not None:
            spacing = fold_spacing(spacing, self.folded)
        grid, rotation = vit.grid_of(folded), vit.rotation(folded, spacing)
        tokens = vit.embed(folded, position_interpolation="plain")
        patch_places = voxel_centres(grid, image.device)
        prior_places = torch.cat([voxel_centres(level, image.device) for level in grids])
        stages = []
        for interaction, blocks in zip(self.interactions, self.stages, strict=True):
            query = tokens[:, leading:].unflatten(0, (-1, self.folded)).mean(dim=1)
            injected = self._call(interaction.injector, query, patch_places, prior, grids)
            injected = injected.repeat_interleave(self.folded, dim=0)
            tokens = vit.run_blocks(
                torch.cat([tokens[:, :leading], tokens[:, leading:] + injected], dim=1), rotation, blocks
            )
            patches = tokens[:, leading:]
            values = patches.unflatten(0, (-1, self.folded)).mean(dim=1)
            for extractor in interaction.extractors:  # type: ignore[union-attr]
                prior = self._call(extractor, prior, prior_places, grids, values, grid)
            stages.append(to_map(patches, grid))
        return prior, stages

    def _merge(self, level: int, stage: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"channel_merge{level}")(unfold_channels(stage, self.folded))

    def _call(self, module: Any, *arguments: Any) -> torch.Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *arguments, use_reentrant=False)
        return module(*arguments)

    def lora_targets(self) -> list[str]:
        """Those of the ViT."""
        return [f"vit_model.{name}" for name in self.vit_model.lora_targets()]

    def parts(self) -> dict[str, list[str]]:
        """None: its decoder is the head."""
        return {}
