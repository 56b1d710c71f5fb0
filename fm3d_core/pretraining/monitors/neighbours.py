"""Nearest neighbours without annotation: does a crop resemble its own volume, its modality, a patch its place?

The weighted k-NN of Wu et al. 2018 (section 3.4) as in Caron et al. 2021 (DINO): cosine likeness, votes of weight
exp(likeness / 0.07), each row left out of its own neighbours.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from fm3d_core.pretraining.monitors.fixed_crops import Features, FixedCrops, Triple, legal_size
from fm3d_core.volumes.volume_list import UNKNOWN

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Objective

_TEMPERATURE = 0.07
_PATCHES = 2048  # patches that are looked at


def neighbour_accuracy(rows: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor, neighbours: int = 20) -> float:
    """Share of rows whose label wins the vote of their nearest neighbours.

    Args:
        rows: (n, C).
        labels: (n,) whole numbers from 0.
        groups: (n,): rows of one's own group do not vote.
        neighbours: that vote, or all there are.
    """
    unit = F.normalize(rows.float() - rows.float().mean(dim=0), dim=1)
    likeness = unit @ unit.T
    likeness[groups[:, None] == groups[None]] = -torch.inf
    nearest, index = likeness.topk(min(neighbours, len(rows) - 1), dim=1)
    votes = torch.zeros(len(rows), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[index], (nearest / _TEMPERATURE).exp())  # exp(-inf): no vote
    return float((votes.argmax(dim=1) == labels).float().mean())


class NeighbourProbe:
    """Accuracies of three questions.

    ``knn_volume``: which volume is a crop of. ``knn_modality``: which modality, answered by other volumes (where
    there are two modalities of two volumes or more). ``knn_position``: in which eighth of its volume a patch lies,
    answered by other volumes; 0.125 by chance. Features are centred first, so that what all have in common does not
    count.
    """

    def __init__(self, crops: FixedCrops) -> None:
        self.crops = crops

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """The figures of this step."""
        crops, backbone = self.crops, objective.pretrained()
        found, volumes = crops.features(backbone, step), crops.volume_of
        figures: dict[str, float] = {}
        if len(crops.volumes) > 1 and crops.per_volume > 1:
            # no more votes than a volume has crops
            most = crops.per_volume - 1
            figures["knn_volume"] = neighbour_accuracy(found.whole, volumes, torch.arange(len(crops)), most)
        modalities = [crops.volumes[index].modality for index in volumes.tolist()]
        counted = Counter(volume.modality for volume in crops.volumes)
        # others answer: the only volume of its modality would always be wrong
        names = sorted(name for name, count in counted.items() if name != UNKNOWN and count > 1)
        known = torch.tensor([name in names for name in modalities])
        if len(names) > 1:
            labels = torch.tensor([names.index(name) for name in modalities if name in names])
            figures["knn_modality"] = neighbour_accuracy(found.whole[known], labels, volumes[known])
        if len(crops.volumes) > 1:
            size = legal_size(backbone, crops.edge)
            figures["knn_position"] = self._position(found, size)
        return figures

    def _position(self, found: Features, size: Triple) -> float:
        crops = self.crops
        places = torch.cat(
            [
                octants(box.start, box.length, crops.volumes[index].shape, found.grid)
                for box, index in zip(crops.boxes, crops.volume_of.tolist(), strict=True)
            ]
        )
        cells = found.patches.shape[1]
        volumes = crops.volume_of.repeat_interleave(cells)
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:_PATCHES]
        return neighbour_accuracy(found.patches.flatten(0, 1)[chosen], places[chosen], volumes[chosen])


def octants(start: Triple, length: Triple, shape: Triple, grid: Triple) -> torch.Tensor:
    """In which of its volume's eighths (0 to 7) the centre of each of a crop's cells lies (N,), Z fastest."""
    halves = []
    for first, side, voxels, cells in zip(start, length, shape, grid, strict=True):
        centres = first + (torch.arange(cells) + 0.5) * side / cells
        halves.append((centres >= voxels / 2).long())
    x, y, z = torch.meshgrid(*halves, indexing="ij")
    return (4 * x + 2 * y + z).flatten()
