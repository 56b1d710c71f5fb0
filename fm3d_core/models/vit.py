"""A 3D vision transformer of DINOv2's shape; parameter names as in the public 3DINO weights, without block chunks.

Xu et al. 2025, "3DINO" (npj Digital Medicine, doi 10.1038/s41746-025-02035-w); Oquab et al. 2023 (DINOv2);
Darcet et al. 2024 (register tokens).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fm3d_core.models.backbone import Size
from fm3d_core.models.layers import Block
from fm3d_core.models.linear import linear
from fm3d_core.models.positions import Interpolation, resize_position_embedding
from fm3d_core.models.recomputation import keep_products
from fm3d_core.models.rotary import Spacing, patch_centres, rotation_of


def flat_block_name(name: str) -> str:
    """Our name of a 3DINO parameter: ``blocks.{chunk}.{block}.`` is ``blocks.{block}.``.

    Chunks are a matter of its sharding, not of the model; the second number counts through all chunks.
    """
    return re.sub(r"\bblocks\.\d+\.(\d+)\.(?=norm|attn|ls|mlp)", r"blocks.\1.", name)


class PatchEmbedding(nn.Module):
    """Cuts (B, C, X, Y, Z) into patches and projects each: (B, N, width), N in X, Y, Z order (Z fastest).

    A convolution whose stride is its kernel is one matrix product, and is computed as such: in bfloat16 on a CPU the
    convolution takes twenty times as long.
    """

    def __init__(self, patch_size: Size, input_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(input_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, y, z = self.proj.kernel_size
        batch, channels, *size = image.shape
        cut = image.reshape(batch, channels, size[0] // x, x, size[1] // y, y, size[2] // z, z)
        patches = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, -1, channels * x * y * z)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


@dataclass(frozen=True)
class ViTFeatures:
    """The last layer's output.

    Attributes:
        cls_token: (B, C), normalised.
        patch_tokens: (B, N, C), normalised.
        before_norm: (B, 1 + registers + N, C), before the final norm.
        register_tokens: (B, registers, C), normalised.
    """

    cls_token: torch.Tensor
    patch_tokens: torch.Tensor
    before_norm: torch.Tensor
    register_tokens: torch.Tensor


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
        register_tokens: learned tokens without a place, between the class token and the patches.
        rotary_wavelengths: shortest and longest wavelength in mm of rotary positions, which then replace the learned
            ones; every call needs ``spacing``. None: learned positions.

    Attributes:
        activation_checkpointing: set to True to keep only each block's input for the backward pass.
        recompute_elementwise: set to True to keep only the matrix products (:mod:`fm3d_core.models.recomputation`).

    Raises:
        ValueError: ``width`` is not a multiple of ``heads``; later, an image that does not fit.
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
        position_interpolation: Interpolation = "published",
        register_tokens: int = 0,
        rotary_wavelengths: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.config: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        for later in ("register_tokens", "rotary_wavelengths"):  # unused ones leave identities of old adapters alone
            if not self.config[later]:
                del self.config[later]
        x, y, z = (patch_size,) * 3 if isinstance(patch_size, int) else patch_size
        self.patch_size: Size = (x, y, z)
        self.width, self.input_channels = width, input_channels
        self.position_interpolation: Interpolation = position_interpolation
        self.rotary_wavelengths = rotary_wavelengths
        self.needs_spacing = rotary_wavelengths is not None
        self.activation_checkpointing = self.recompute_elementwise = False
        self.leading_tokens = 1 + register_tokens
        edge = max(image_size // max(self.patch_size), 1)
        self.patch_embed = PatchEmbedding(self.patch_size, input_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if register_tokens:
            self.register_tokens = nn.Parameter(torch.zeros(1, register_tokens, width))
        if rotary_wavelengths is None:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + edge**3, width))
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
        if self.rotary_wavelengths is None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.leading_tokens > 1:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """The normalised class token (B, C) of ``image`` (B, input_channels, X, Y, Z)."""
        return self.forward_features(image, spacing=spacing).cls_token

    def forward_features(
        self, image: torch.Tensor, masks: torch.Tensor | None = None, *, spacing: Spacing | None = None
    ) -> ViTFeatures:
        """All tokens of the last layer.

        Args:
            image: (B, input_channels, X, Y, Z), each size a multiple of the patch.
            masks: (B, N) bool: patches replaced by the mask token.
            spacing: mm per voxel, (3,) or (B, 3); only with rotary positions, and then always.
        """
        tokens, rotation = self.embed(image, masks), self.rotation(image, spacing)
        return self._output(self.run_blocks(tokens, rotation))

    def forward_many(
        self,
        images: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor | None] | None = None,
        *,
        spacings: Sequence[Spacing | None] | None = None,
    ) -> list[ViTFeatures]:
        """:meth:`forward_features` of several batches of different sizes in one pass.

        Norms and linear layers work on the tokens of all batches together, attention on each by itself. Stochastic
        depth above 0.1 leaves a fixed number of random images out of each branch, and their work with them.
        """
        nothing = [None] * len(images)
        embedded = [self.embed(image, mask) for image, mask in zip(images, masks or nothing, strict=True)]
        rotations = [self.rotation(image, mm) for image, mm in zip(images, spacings or nothing, strict=True)]
        shapes = [(tokens.shape[0], tokens.shape[1]) for tokens in embedded]
        packed = torch.cat([tokens.flatten(0, 1) for tokens in embedded])
        for block in self.blocks:
            packed = self._call(block.forward_packed, packed, shapes, rotations)
        normalised = self.norm(packed)
        counts = [batch * count for batch, count in shapes]
        pieces = zip(packed.split(counts), normalised.split(counts), shapes, strict=True)
        return [self._named(before.unflatten(0, shape), after.unflatten(0, shape)) for before, after, shape in pieces]

    def embed(
        self,
        image: torch.Tensor,
        masks: torch.Tensor | None = None,
        position_interpolation: Interpolation | None = None,
    ) -> torch.Tensor:
        """The tokens that enter the first block: (B, 1 + registers + N, C)."""
        grid = self.grid_of(image)
        patches = self.patch_embed(image)
        if masks is not None:
            patches = torch.where(masks.unsqueeze(-1), self.mask_token.to(patches.dtype), patches)
        first: torch.Tensor = self.cls_token
        if self.rotary_wavelengths is None:
            positions = self.position_embedding(grid, position_interpolation)
            first, patches = first + positions[:, :1], patches + positions[:, 1:].to(patches.dtype)
        leading = [first] if self.leading_tokens == 1 else [first, self.register_tokens]
        return torch.cat([*(token.expand(len(patches), -1, -1).to(patches.dtype) for token in leading), patches], dim=1)

    def run_blocks(
        self, tokens: torch.Tensor, rotation: torch.Tensor | None = None, blocks: range | None = None
    ) -> torch.Tensor:
        """``tokens`` after all blocks, or after a range of them."""
        for index in blocks if blocks is not None else range(len(self.blocks)):
            tokens = self._call(self.blocks[index], tokens, rotation)
        return tokens

    def _call(self, block: Any, *arguments: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            if self.activation_checkpointing:
                return checkpoint(block, *arguments, use_reentrant=False)
            if self.recompute_elementwise and not torch.compiler.is_compiling():
                return checkpoint(block, *arguments, use_reentrant=False, context_fn=keep_products)
        return block(*arguments)

    def grid_of(self, image: torch.Tensor) -> Size:
        """Patches along each axis of ``image``.

        Raises:
            ValueError: wrong number of channels or axes, or a size that is not a multiple of the patch.
        """
        if image.ndim != 5 or image.shape[1] != self.input_channels:
            wanted = f"(batch, {self.input_channels}, X, Y, Z)"
            raise ValueError(f"the backbone takes images of shape {wanted}, not {tuple(image.shape)}")
        sizes = tuple(image.shape[-3:])
        if any(size % patch or size == 0 for size, patch in zip(sizes, self.patch_size, strict=True)):
            raise ValueError(_nearest_sizes(sizes, self.patch_size))
        x, y, z = (size // patch for size, patch in zip(sizes, self.patch_size, strict=True))
        return x, y, z

    def position_embedding(self, grid: Size, interpolation: Interpolation | None = None) -> torch.Tensor:
        """The learned position embedding (1, 1 + N, C) on a patch grid."""
        return resize_position_embedding(self.pos_embed, grid, interpolation or self.position_interpolation)

    def rotation(self, image: torch.Tensor, spacing: Spacing | None) -> torch.Tensor | None:
        """By what rotary positions turn queries and keys; None with learned positions.

        Raises:
            ValueError: rotary positions without a spacing.
        """
        if self.rotary_wavelengths is None:
            return None
        if spacing is None:
            raise ValueError("a ViT with rotary positions in millimetres needs the image's spacing")
        centres = patch_centres(self.grid_of(image), self.patch_size, spacing, image.device)
        head_width = self.width // self.config["heads"]
        return rotation_of(centres, head_width, self.rotary_wavelengths, self.leading_tokens)

    def intermediate_layers(
        self, image: torch.Tensor, layers: int | Sequence[int], *, norm: bool = True, spacing: Spacing | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Class token (B, C) and patch tokens (B, N, C) of the last ``layers`` blocks, or of the blocks named."""
        depth = len(self.blocks)
        wanted = range(depth - layers, depth) if isinstance(layers, int) else layers
        tokens, kept = self.embed(image), {}
        rotation = self.rotation(image, spacing)
        for index in range(max(wanted) + 1):
            tokens = self.run_blocks(tokens, rotation, range(index, index + 1))
            if index in wanted:
                kept[index] = self.norm(tokens) if norm else tokens
        return [(kept[index][:, 0], kept[index][:, self.leading_tokens :]) for index in wanted]

    def features(self, image: torch.Tensor, spacing: Spacing | None = None) -> list[torch.Tensor]:
        """Patch tokens of four evenly spaced layers as maps (B, C, X/p, Y/p, Z/p), shallow to deep, normalised."""
        grid = self.grid_of(image)
        layers = self.intermediate_layers(image, self.feature_layers, spacing=spacing)
        return [patches.transpose(1, 2).unflatten(2, grid) for _, patches in layers]

    def last_attention(self, image: torch.Tensor, spacing: Spacing | None = None) -> torch.Tensor:
        """Attention weights (B, heads, T, T) of the true last block, T = 1 + registers + N."""
        rotation = self.rotation(image, spacing)
        tokens = self.run_blocks(self.embed(image), rotation, range(len(self.blocks) - 1))
        last = self.blocks[-1]
        return last.attn.attention_map(last.norm1(tokens), rotation)  # type: ignore[union-attr,operator]

    def lora_targets(self) -> list[str]:
        """The fused projections of every block (Hu et al. 2021: attention weights)."""
        return [f"blocks.{i}.attn.{name}" for i in range(len(self.blocks)) for name in ("qkv", "proj")]

    def parts(self) -> dict[str, list[str]]:
        """None: its decoder is the head."""
        return {}

    def _output(self, tokens: torch.Tensor) -> ViTFeatures:
        return self._named(tokens, self.norm(tokens))

    def _named(self, tokens: torch.Tensor, normalised: torch.Tensor) -> ViTFeatures:
        patches, registers = normalised[:, self.leading_tokens :], normalised[:, 1 : self.leading_tokens]
        return ViTFeatures(normalised[:, 0], patches, tokens, registers)


def _nearest_sizes(sizes: Sequence[int], patch: Size) -> str:
    below = tuple(max(size // step, 1) * step for size, step in zip(sizes, patch, strict=True))
    above = tuple(-(-size // step) * step or step for size, step in zip(sizes, patch, strict=True))
    nearest = " or ".join(dict.fromkeys([str(below), str(above)]))
    return f"image size {tuple(sizes)} is not a multiple of the patch {patch}; the nearest legal sizes are {nearest}"
