"""Which patches are hidden from the student, and how crops and masks become one batch.

Zhou et al. 2022 (iBOT); Oquab et al. 2023 (DINOv2): half of the global crops are masked, each with a ratio from its
own part of the range, so that a batch always has small and large ratios. 3DINO hides patches uniformly at random;
connected blocks (Bao et al. 2022, BEiT, here in 3D) are an option.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.batches import Batch

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class MaskSettings:
    """How much is hidden, and where.

    Attributes:
        ratio: smallest and largest share of hidden patches in a masked crop.
        probability: share of the crops of a batch that are masked.
        shape: "uniform" (3DINO) or "blocks", connected boxes.

    Raises:
        SettingsError: shares outside of [0, 1] or in the wrong order, or an unknown shape.
    """

    ratio: tuple[float, float] = (0.2, 0.75)
    probability: float = 0.5
    shape: Literal["uniform", "blocks"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio[0] <= self.ratio[1] <= 1 or not 0 <= self.probability <= 1:
            raise SettingsError(
                f"mask ratio {self.ratio} or probability {self.probability} is not a share of the whole",
                remedy="Give a ratio such as 0.2 to 0.75 and a probability from 0 to 1",
            )
        if self.shape not in ("uniform", "blocks"):
            raise SettingsError(f"unknown mask shape '{self.shape}'", remedy="Choose uniform or blocks")


@dataclass(frozen=True)
class Masks(Batch):
    """Hidden patches of a batch of global crops.

    Attributes:
        hidden: (images, N) bool, N patches in X, Y, Z order (Z fastest).
        indices: (M,) positions of the hidden patches in the flattened (images * N) tokens.
        weights: (M,) float32, one over the number of hidden patches in the image.
        upper_bound: largest M that this batch size can give; for buffers of a fixed size.
    """

    hidden: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor
    upper_bound: int

    @classmethod
    def of(cls, hidden: torch.Tensor, upper_bound: int | None = None) -> Masks:
        """Indices and weights of ``hidden`` (images, N) bool."""
        counts = hidden.sum(dim=1, keepdim=True).clamp(min=1)
        weights = (1 / counts.float()).expand_as(hidden)[hidden]
        indices = hidden.flatten().nonzero().flatten()
        return cls(hidden, indices, weights, int(hidden.sum()) if upper_bound is None else upper_bound)


@dataclass(frozen=True)
class CropBatch(Batch):
    """What one step sees of B images.

    Attributes:
        global_crops: (G * B, C, X, Y, Z), view by view: view 0 of all images, then view 1.
        local_crops: (L * B, C, x, y, z) in the same order, or None.
        masks: of the global crops.
        batch: B.
        global_spacing: (G * B, 3) voxel sizes in mm, for backbones with positions in mm; None where not known.
        local_spacing: (L * B, 3), likewise.
    """

    global_crops: torch.Tensor
    local_crops: torch.Tensor | None
    masks: Masks
    batch: int
    global_spacing: torch.Tensor | None = None
    local_spacing: torch.Tensor | None = None


def draw_masks(images: int, grid: Grid, settings: MaskSettings, generator: random.Random) -> Masks:
    """Hidden patches for ``images`` crops with ``grid`` patches each.

    The range of ratios is cut into as many equal parts as crops are masked; each masked crop draws its ratio from one
    part. Which crops are masked is shuffled. The same generator state gives the same masks.
    """
    import torch

    patches = math.prod(grid)
    masked = int(images * settings.probability)
    bounds = torch.linspace(*settings.ratio, masked + 1).tolist()
    hidden, upper_bound = [], 0
    for low, high in itertools.pairwise(bounds):
        hidden.append(_draw(int(patches * generator.uniform(low, high)), grid, settings.shape, generator))
        upper_bound += int(patches * high)
    hidden += [[] for _ in range(images - masked)]
    generator.shuffle(hidden)
    mask = torch.zeros(images, patches, dtype=torch.bool)
    for row, positions in zip(mask, hidden, strict=True):
        row[positions] = True
    return Masks.of(mask, upper_bound)


def collate_crops(
    samples: Sequence[tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]],
    patch_size: Grid,
    settings: MaskSettings,
    generator: random.Random,
    dtype: torch.dtype | None = None,
    spacings: Sequence[Sequence[tuple[float, float, float]]] | None = None,
    *,
    share: tuple[int, int] = (0, 1),
) -> CropBatch:
    """One batch of samples with their masks.

    Args:
        samples: for each image its global and its local crops, each (C, X, Y, Z); equal numbers and sizes.
        patch_size: voxels along each axis.
        settings: of the masks.
        generator: source of the masks.
        dtype: of the crops (3DINO casts to float16); None keeps theirs.
        spacings: for each image the voxel sizes in mm of its crops, global ones first; None where not known.
        share: rank r of W: these samples are r, r + W, ... of a batch whose masks are drawn as a whole.

    Raises:
        ValueError: no sample, or different numbers of crops.
    """
    import torch

    numbers = {(len(global_), len(local)) for global_, local in samples}
    if len(numbers) != 1:
        raise ValueError(f"samples with (global, local) crops {sorted(numbers)} do not make one batch")
    global_crops = _view_by_view([global_ for global_, _ in samples], dtype)
    if global_crops is None:
        raise ValueError("samples without global crops")
    x, y, z = (size // patch for size, patch in zip(global_crops.shape[-3:], patch_size, strict=True))
    rank, world_size = share
    masks = draw_masks(len(global_crops) * world_size, (x, y, z), settings, generator)
    if world_size > 1:
        views = masks.hidden.unflatten(0, (-1, len(samples) * world_size))
        own = views[:, rank::world_size].flatten(0, 1)
        masks = Masks.of(own, min(masks.upper_bound, own.numel()))
    local_crops = _view_by_view([local for _, local in samples], dtype)
    if spacings is None:
        return CropBatch(global_crops, local_crops, masks, len(samples))
    millimetres = torch.tensor(list(zip(*spacings, strict=True)), dtype=torch.float32).flatten(0, 1)  # view by view
    first, others = millimetres[: len(global_crops)], millimetres[len(global_crops) :]
    return CropBatch(global_crops, local_crops, masks, len(samples), first, others if len(others) else None)


def _view_by_view(crops: Sequence[Sequence[torch.Tensor]], dtype: torch.dtype | None) -> torch.Tensor | None:
    import torch

    ordered = [image for view in zip(*crops, strict=True) for image in view]
    if not ordered:
        return None
    return torch.stack(ordered).to(dtype or ordered[0].dtype)


def _draw(count: int, grid: Grid, shape: str, generator: random.Random) -> list[int]:
    if shape == "uniform":
        return generator.sample(range(math.prod(grid)), count)
    return _draw_blocks(count, grid, generator)


def _draw_blocks(count: int, grid: Grid, generator: random.Random) -> list[int]:
    """Exactly ``count`` positions from boxes with aspect ratios within [0.5, 2]; the last box is cut to fit."""
    hidden: dict[int, None] = {}  # an ordered set: the same generator state gives the same mask everywhere
    while len(hidden) < count:
        edge = generator.uniform(0.3, 1.0) * (count - len(hidden)) ** (1 / 3)
        sides = [min(max(round(edge * math.exp(generator.uniform(-0.5, 0.5) * math.log(2))), 1), size) for size in grid]
        x, y, z = (generator.randint(0, size - side) for size, side in zip(grid, sides, strict=True))
        for i in range(x, x + sides[0]):
            for j in range(y, y + sides[1]):
                for k in range(z, z + sides[2]):
                    if len(hidden) < count:
                        hidden[(i * grid[1] + j) * grid[2] + k] = None
    return list(hidden)
