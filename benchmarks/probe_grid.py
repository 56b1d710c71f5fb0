"""What 104 linear probes cost that are trained at once, against one, and against one after the other.

Core-seconds (process time, one thread) of 12,500 iterations at batch 32, on vectors of random numbers: what is learned
does not change what it costs. "one" is torch's own linear layer, SGD and cosine as anybody would write them, of the
setting with most features; "one after another" is the sum over all settings, of which a few are measured and the others
interpolated by their number of features. Features are counted once for each: seconds per image of a backbone's forward
pass, measured in the same run.

    python benchmarks/probe_grid.py --images 160 --backbone vit_small --edge 96
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch.nn import functional as F

from fm3d_core.devices import autocast
from fm3d_core.evaluation.probing.grid import ProbeGrid, batches, initial_weight, train_probes
from fm3d_core.evaluation.probing.vectors import ImageVectors
from fm3d_core.models.image_heads import image_maps
from fm3d_core.models.zoo import BackboneSpec, create_backbone

ITERATIONS = 12_500


@dataclass(frozen=True)
class Arguments:
    """What is measured.

    Attributes:
        images: training images.
        backbone: preset whose width and forward pass are taken.
        edge: voxels of an image.
        classes: outputs of a head.
        measured: iterations that are measured of each; cost is in proportion.
    """

    images: int = 160
    backbone: str = "vit_small"
    edge: int = 96
    classes: int = 3
    measured: int = 1500


def seconds(call: Callable[[], object]) -> float:
    """Core-seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def cross_entropy(scores: torch.Tensor, target: torch.Tensor, annotated: None = None) -> torch.Tensor:
    return F.cross_entropy(scores, target[:, 0].long())


def plain(inputs: torch.Tensor, targets: torch.Tensor, classes: int, iterations: int) -> None:
    """One probe, as anybody would write it."""
    grid = ProbeGrid(iterations=iterations)
    head = torch.nn.Linear(inputs.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(initial_weight(inputs.shape[1], classes, 0))
    optimiser = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for batch in batches(len(inputs), grid):
        optimiser.zero_grad()
        cross_entropy(head(inputs[batch]), targets[batch]).backward()
        optimiser.step()
        schedule.step()


def main(arguments: Arguments) -> None:
    """Measure and print one row."""
    torch.set_num_threads(1)
    backbone = create_backbone(BackboneSpec(arguments.backbone))
    image = torch.randn(1, 1, *(arguments.edge,) * 3)
    with torch.inference_mode(), autocast(torch.device("cpu")):
        image_maps(backbone, image, 4, True)
        forward = seconds(lambda: [image_maps(backbone, image, 4, True) for _ in range(3)]) / 3
    width = int(backbone.width)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(arguments.images, width, generator=generator) for _ in range(5)]
    vectors = ImageVectors(tuple(parts[:4]), parts[4])
    targets = torch.randint(0, arguments.classes, (arguments.images, 1), generator=generator).float()
    whole = ITERATIONS / arguments.measured

    grid = ProbeGrid(iterations=arguments.measured)
    once = seconds(lambda: train_probes(vectors, targets, arguments.classes, cross_entropy, grid)) * whole
    widths, costs = [], []
    for layers, patch in ((1, False), (2, True), (4, True)):
        inputs = vectors.joined(layers, patch)
        cost = seconds(lambda inputs=inputs: plain(inputs, targets, arguments.classes, arguments.measured))
        widths.append(inputs.shape[1])
        costs.append(cost * whole)
    each = [float(np.interp(width * (layers + patch), widths, costs)) for layers, patch in ProbeGrid().features]
    others = len(grid.learning_rates) * sum(each)
    features, one = forward * arguments.images, costs[-1]
    print(  # noqa: T201
        json.dumps(
            {
                "images": arguments.images,
                "backbone": arguments.backbone,
                "edge": arguments.edge,
                "features_s": round(features, 1),
                "training_one_s": round(one, 1),
                "training_104_at_once_s": round(once, 1),
                "training_104_one_after_another_s": round(others, 1),
                "training_at_once_of_one": round(once / one, 2),
                "training_at_once_of_others": round(once / others, 4),
                "with_features_at_once_of_one": round((features + once) / (features + one), 2),
                "with_features_at_once_of_others": round((features + once) / (features + others), 3),
            }
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
