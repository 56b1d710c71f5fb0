"""The ViT-Adapter's finest map as a sum of terms, so that convolutions of it need not hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F


@dataclass
class HalfResolutionMap:
    """``norm(up(quarter) + projection(stem) + resize(tokens))``.
    """

    stem: torch.Tensor
    projection: Any
    quarter: torch.Tensor
    up: Any
    tokens: torch.Tensor
    norm: Any

    def materialise(self) -> torch.Tensor:
        """The map (B, width, X/2, Y/2, Z/2)."""
        total = self.up(self.quarter) + self.projection(self.stem)
        total = total + F.interpolate(self.tokens, size=total.shape[-3:], mode="trilinear", align_corners=False)
        return self.norm(total)
