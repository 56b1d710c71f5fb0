"""One pass of the plain backbone over a volume: what the first linear head says, and the features of some voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.closed_form import Voxels
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork

PER_CLASS = 300  # voxels of each structure in a window whose features are kept
BACKGROUND = 600  # voxels of background in a window
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class FrozenPass:
    """What the plain backbone says of a volume.

    Attributes:
        classes: (X', Y', Z') of the first linear head, on the prepared grid.
        voxels: features and labels of some voxels; each stands for so many of its class.
    """

    classes: torch.Tensor
    voxels: Voxels


def frozen_pass(
    network: DenseNetwork,
    image: torch.Tensor,
    labels: torch.Tensor,
    window: Size,
    spacing: tuple[float, float, float],
    device: torch.device,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
    stage: str = "checking",
) -> FrozenPass:
    """Run the plain backbone once over windows side by side, which takes less than the blended windows of inference.

    Args:
        network: the plain backbone with the first linear head.
        image: (C, X', Y', Z') prepared.
        labels: (X', Y', Z') classes whose voxels are drawn, ``IGNORED`` where none are.
        window: voxels of one window.
        spacing: mm per voxel.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    import torch

    from fm3d_core.adaptation.closed_form import Voxels
    from fm3d_core.models.voxel_features import features_at

    generator = torch.Generator().manual_seed(0)
    boxes = list(windows_of((image.shape[1], image.shape[2], image.shape[3]), window))
    clock = StageClock(stage, len(boxes), progress)
    classes, drawn = torch.zeros(image.shape[1:], dtype=torch.long), []
    for done, box in enumerate(boxes):
        if should_stop():
            raise Stopped("The check of the segmentation")
        clock.report(done)
        with torch.inference_mode(), autocast(device):
            padded = network.prepare(image[(slice(None), *box)][None].to(device))
            maps = network.features(padded, spacing)
            scores = network.head(maps, padded)[0].float().cpu()
        part = labels[box]
        x, y, z = part.shape
        classes[box] = scores[:, :x, :y, :z].argmax(0)
        flat, share = _chosen(part, generator)
        if len(flat):
            places = torch.stack(torch.unravel_index(flat, (x, y, z)), dim=-1)
            size = (padded.shape[-3], padded.shape[-2], padded.shape[-1])
            in_padded = (places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2]
            found = features_at(maps, in_padded[None].to(maps[0].device), size)[0].cpu()
            drawn.append(Voxels(found, part.flatten()[flat].long(), share))
    clock.report(len(boxes))
    return FrozenPass(classes, Voxels.joined(drawn))


def windows_of(size: Size, window: Size) -> Iterator[Box]:
    """Boxes side by side that fill ``size``, the last of each axis moved inwards."""
    starts = []
    for length, edge in zip(size, window, strict=True):
        count = max(-(-length // edge), 1)
        starts.append(sorted({min(i * edge, max(length - edge, 0)) for i in range(count)}))
    for start in itertools.product(*starts):
        x, y, z = (
            slice(first, min(first + edge, length)) for first, edge, length in zip(start, window, size, strict=True)
        )
        yield x, y, z


def _chosen(labels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices of some voxels of each class, and for how many of its class each stands."""
    import torch

    from fm3d_core.volumes import IGNORED

    flat = labels.flatten()
    indices, shares = [torch.empty(0, dtype=torch.long)], [torch.empty(0)]
    for value in flat.unique().tolist():
        if value == IGNORED:
            continue
        taken = of_class = (flat == value).nonzero().flatten()
        wanted = BACKGROUND if value == 0 else PER_CLASS
        if len(of_class) > wanted:
            taken = of_class[torch.randint(len(of_class), (wanted,), generator=generator)]
        indices.append(taken)
        shares.append(torch.full((len(taken),), len(of_class) / len(taken)))
    return torch.cat(indices), torch.cat(shares)
