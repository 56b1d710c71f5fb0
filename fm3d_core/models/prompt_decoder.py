"""A small network that draws the structure that prompts show, from frozen features; it knows no structure by name.

The features are encoded once; each click decodes anew, as in Kirillov et al. 2023 (Segment Anything). Prompts come as
maps (Xu et al. 2016, deep interactive object selection), and as likeness to the clicked voxels in a learned embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PROMPT_CHANNELS = 13  # see fm3d_core.inference.interactive.prompt_maps
LIKENESS_CHANNELS = 2
_DETAIL = 8  # channels that the coarse levels give to the full resolution


@dataclass(frozen=True)
class Encoded:
    """What the decoder needs of an image, whatever the prompts.

    Attributes:
        context: (1, W, x, y, z) at the stride of the second map.
        embedding: (1, E, x, y, z) of length 1 along E.
        fine: (1, C_0, X, Y, Z), the backbone's first map.
    """

    context: torch.Tensor
    embedding: torch.Tensor
    fine: torch.Tensor

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(each.numel() * each.element_size() for each in (self.context, self.embedding, self.fine))


class PromptDecoder(nn.Module):
    """U-Net at half the resolution, and a last layer at the full one.

    Args:
        feature_channels: of the backbone's maps; the first has stride 1, each further one twice the stride before.
        width: channels of the first level.
        embedding: channels in which likeness is measured.
    """

    def __init__(self, feature_channels: Sequence[int], width: int = 16, embedding: int = 16) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "feature_channels": list(feature_channels),
            "width": width,
            "embedding": embedding,
        }
        self.of_maps = nn.ModuleList(nn.Conv3d(count, width + embedding, 1) for count in feature_channels[1:])
        self.norms = nn.ModuleList(nn.InstanceNorm3d(count) for count in feature_channels)
        self.width = width
        self.sharpness = nn.Parameter(torch.tensor(4.0))
        first = width + PROMPT_CHANNELS + LIKENESS_CHANNELS
        self.enter = nn.Sequential(_block(first, width), _block(width, width))
        self.down = nn.ModuleList(
            nn.Sequential(
                _block(width * 2**i, width * 2 ** (i + 1), stride=2), _block(width * 2 ** (i + 1), width * 2 ** (i + 1))
            )
            for i in range(2)
        )
        self.up = nn.ModuleList(_block(width * 2**i + width * 2 ** (i + 1), width * 2**i) for i in range(2))
        self.detail = nn.Conv3d(width, _DETAIL, 1)
        self.fine = nn.Conv3d(_DETAIL + feature_channels[0] + 1, 2 * _DETAIL, 1)
        self.score = nn.Conv3d(2 * _DETAIL, 1, 1)
        self.coarse_score = nn.Conv3d(width, 1, 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode(self, maps: Sequence[torch.Tensor]) -> Encoded:
        """Once per image: ``maps`` of the backbone, finest first, each (1, C_i, X/2^i, Y/2^i, Z/2^i)."""
        size = maps[1].shape[-3:]
        total = None
        for layer, norm, each in zip(self.of_maps, list(self.norms)[1:], maps[1:], strict=True):
            part = layer(norm(each))
            if part.shape[-3:] != size:
                part = F.interpolate(part, size=size, mode="trilinear", align_corners=False)
            total = part if total is None else total + part
        assert total is not None
        embedding = F.normalize(total[:, self.width :].float(), dim=1, eps=1e-3)
        return Encoded(F.leaky_relu(total[:, : self.width], 0.01), embedding, self.norms[0](maps[0]))

    def forward(
        self,
        encoded: Encoded,
        image: torch.Tensor,
        prompts: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (1, 1, X, Y, Z), and (1, 1, x, y, z) of the coarse level alone.

        Args:
            encoded: of :meth:`encode`.
            image: (1, 1, X, Y, Z) in [-1, 1].
            prompts: (1, PROMPT_CHANNELS, x, y, z).
            positive, negative: (n,) flat indices of prompted voxels in (x, y, z); may be empty.
        """
        like = [self._likeness(encoded.embedding, voxels) for voxels in (positive, negative)]
        maps = self.enter(torch.cat([encoded.context, prompts, *like], dim=1))
        skips = [maps]
        for down in self.down:
            skips.append(down(skips[-1]))
        maps = skips.pop()
        for level in (1, 0):
            size = skips[level].shape[-3:]
            maps = F.interpolate(maps, size=size, mode="trilinear", align_corners=False)
            maps = self.up[level](torch.cat([maps, skips[level]], dim=1))
        coarse = self.coarse_score(maps)
        size = encoded.fine.shape[-3:]
        fine = F.interpolate(self.detail(maps), size=size, mode="trilinear", align_corners=False)
        fine = self.fine(torch.cat([fine, encoded.fine, image], dim=1))
        fine = self.score(F.leaky_relu(fine, 0.01, inplace=True))
        return fine + F.interpolate(coarse, size=size, mode="trilinear", align_corners=False), coarse

    def _likeness(self, embedding: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        """(1, 1, x, y, z): cosine to the most alike of the prompted voxels, sharpened to 0 to 1; 0 without any."""
        if not len(voxels):
            return torch.zeros_like(embedding[:, :1])
        flat = embedding[0].flatten(1)
        cosine = (flat[:, voxels].T @ flat).amax(dim=0)
        return torch.exp(self.sharpness * (cosine - 1)).view(1, 1, *embedding.shape[-3:])


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )
