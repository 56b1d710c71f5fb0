"""Multi-scale deformable attention in three dimensions (Zhu et al. 2021, Deformable DETR).

A query reads a few points of each value volume, at learned offsets from its own place. 3DINO's released decoders were
trained with permuted axes: a query at (x, y, z) of a cube reads the neighbourhood of (z, x, y). ``axis_order`` says
which of the two a set of weights expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Size
from fm3d_core.models.linear import Linear

AxisOrder = Literal["corrected", "3dino"]

# Which axis of the volume the three learned offset coordinates are normalised by and measured from. They are read as
# those of a sampling grid are: the first moves along the last axis.
_AXES: dict[str, tuple[int, int, int]] = {"corrected": (2, 1, 0), "3dino": (1, 0, 2)}


def voxel_centres(grid: Size, device: torch.device | None = None) -> torch.Tensor:
    """Centres of the voxels of ``grid`` as fractions of its edges: (X * Y * Z, 3), Z fastest."""
    axes = [(torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


class DeformableAttention3D(nn.Module):
    """Each query gathers ``points`` trilinear samples per head from every level and adds them with learned weights.

    Args:
        width: channels of queries and values.
        levels: value volumes.
        heads, points: attention heads, and samples per head and level.
        ratio: channels of the projected values over ``width``.
        axis_order: "corrected", or "3dino" for weights that were trained with permuted axes.

    Raises:
        ValueError: unknown axis order, or the projected values do not split into heads.
    """

    def __init__(
        self,
        width: int,
        levels: int = 1,
        heads: int = 8,
        points: int = 4,
        ratio: float = 1.0,
        axis_order: AxisOrder = "corrected",
    ) -> None:
        super().__init__()
        if axis_order not in _AXES:
            raise ValueError(f"axis_order is 'corrected' or '3dino', not {axis_order!r}")
        value_width = int(width * ratio)
        if value_width % heads:
            raise ValueError(f"{value_width} value channels ({ratio} of {width}) are not a multiple of {heads} heads")
        self.levels, self.heads, self.points, self.axis_order = levels, heads, points, axis_order
        self.sampling_offsets = Linear(width, heads * levels * points * 3)
        self.attention_weights = Linear(width, heads * levels * points)
        self.value_proj = Linear(width, value_width)
        self.output_proj = Linear(value_width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head h looks towards corner h of the cube, point p at p + 1 voxels; equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        corners = torch.tensor(list(product((-1.0, 1.0), repeat=3)))[torch.arange(self.heads) % 8]
        steps = torch.arange(1.0, self.points + 1)
        offsets = corners[:, None, None, :] * steps[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: torch.Tensor, centres: torch.Tensor, values: torch.Tensor, grids: Sequence[Size]
    ) -> torch.Tensor:
        """What each query gathers: (B, Q, C).

        Args:
            query: (B, Q, C).
            centres: (Q, 3), where the queries lie, in fractions of the volume's edges (:func:`voxel_centres`).
            values: (B, N, C), the levels one after the other, Z fastest.
            grids: the size of each level; together they have N voxels.
        """
        return self.gather(query, centres, self.value_proj(values), grids)

    def gather(
        self, query: torch.Tensor, centres: torch.Tensor, projected: torch.Tensor, grids: Sequence[Size]
    ) -> torch.Tensor:
        """As :meth:`forward`, on values that went through ``value_proj`` already: (B, N, C * ratio)."""
        batch, queries, _ = query.shape
        axes = list(_AXES[self.axis_order])
        sizes = torch.tensor(grids, device=query.device, dtype=torch.float32)  # (L, 3)
        offsets = self.sampling_offsets(query).float().view(batch, queries, self.heads, self.levels, self.points, 3)
        places = centres[:, axes].view(1, queries, 1, 1, 1, 3) + offsets / sizes[:, axes].view(1, 1, 1, -1, 1, 3)
        weights = self.attention_weights(query).float().view(batch, queries, self.heads, self.levels * self.points)
        weights = weights.softmax(dim=-1).view(batch, queries, self.heads, self.levels, self.points)
        value = projected.unflatten(-1, (self.heads, -1))
        return self.output_proj(_gather(value, grids, places.flip(-1), weights).to(query.dtype))


def _gather(value: torch.Tensor, grids: Sequence[Size], places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of trilinear samples, zero outside: (B, Q, H * D).

    The same as ``grid_sample`` (align_corners False) per level and head, but the eight corners of all points of a head
    are one bag of an embedding lookup: rows are read whole, and no sample is ever stored.

    Args:
        value: (B, N, H, D); grids: of its levels.
        places: (B, Q, H, L, P, 3), fractions of the edges in the order of the volume's axes.
        weights: (B, Q, H, L, P).
    """
    batch, count, heads, channels = value.shape
    rows, factors, start = [], [], 0
    for level, grid in enumerate(grids):
        index: torch.Tensor | None = None
        factor = weights[:, :, :, level, :, None]  # (B, Q, H, P, corners so far)
        for axis, size in enumerate(grid):
            place = places[:, :, :, level, :, axis] * size - 0.5
            below = place.floor()
            share = (place - below).unsqueeze(-1)
            neighbours = torch.stack([below, below + 1], dim=-1)  # (B, Q, H, P, 2)
            inside = (neighbours >= 0) & (neighbours <= size - 1)
            axis_factor = torch.cat([1 - share, share], dim=-1) * inside
            axis_index = neighbours.clamp(0, size - 1).int()
            factor = (factor.unsqueeze(-1) * axis_factor.unsqueeze(-2)).flatten(-2)
            index = axis_index if index is None else (index.unsqueeze(-1) * size + axis_index.unsqueeze(-2)).flatten(-2)
        assert index is not None
        rows.append((index + start).flatten(-2))
        factors.append(factor.flatten(-2))
        start += grid[0] * grid[1] * grid[2]
    voxel, factor = torch.cat(rows, dim=-1), torch.cat(factors, dim=-1)  # (B, Q, H, L * P * 8)
    image = torch.arange(batch, device=value.device, dtype=voxel.dtype).view(-1, 1, 1, 1)
    head = torch.arange(heads, device=value.device, dtype=voxel.dtype).view(1, 1, -1, 1)
    row = (image * count + voxel) * heads + head
    table = value.reshape(batch * count * heads, channels)
    bags = F.embedding_bag(
        row.flatten(0, 2), table, mode="sum", per_sample_weights=factor.flatten(0, 2).to(table.dtype)
    )
    return bags.view(batch, row.shape[1], heads * channels)
