"""A plain FSEFT loop: a linear probe with the frozen backbone run again at every step (../shared/specs/fseft.md, 1.2).

One volume a step, six crops of at most 96^3, half of them on a structure; intensity shift of 0.1 with probability 0.2;
Dice with a smoothing of 1, background included; AdamW 1e-2 without weight decay, constant for an epoch (k steps), then
cosine to 0 over 200 epochs; from epoch 31 it stops when the mean loss of 10 epochs fell by less than 0.001 in 20. It
also stops when the budget is spent. The public weights of FSEFT cannot be had here: the backbone is the one that comes
with FM3D, on volumes prepared as FM3D prepares them, so only the loop is FSEFT's.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from few_shot_row import Row, Trained
from few_shot_sets import Split

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, untrained_adapter
from fm3d_core.adaptation.cases import load_cases, plan_preprocessing, prepare_cases
from fm3d_core.devices import autocast
from fm3d_core.inference.sliding_window import sliding_window_scores
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Case, read_volume

if TYPE_CHECKING:
    import torch

EDGE, CROPS, EPOCHS, RATE = 96, 6, 200, 1e-2


def train(row: Row, volumes: Split) -> Trained:
    """The loop."""
    import torch
    from monai.transforms import Compose, RandCropByPosNegLabeld, RandShiftIntensityd
    from monai.utils import set_determinism

    set_determinism(row.seed)
    device, started = torch.device("cpu"), time.process_time()
    task = SegmentationTask(volumes.labels)
    cases = [LabeledCase(case.name, case.image, case.label) for case in volumes.training if case.label is not None]
    loaded, _ = load_cases(cases, task)
    preprocessing = plan_preprocessing(loaded)
    prepared = prepare_cases(loaded, preprocessing)
    settings = FinetuneSettings(method="linear_probe", seed=row.seed)
    network = untrained_adapter(replace(task, preprocessing=preprocessing), settings).build_network()
    network.backbone.eval().requires_grad_(False)
    head = list(network.head.parameters())
    for parameter in head:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(head, RATE, weight_decay=0)
    ready = time.process_time()
    steps, losses = 0, []
    while steps < EPOCHS * row.shots and time.process_time() - ready < row.budget:
        epoch = steps // row.shots
        optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * max(epoch - 1, 0) / EPOCHS)) / 2
        case = prepared[steps % row.shots]
        crop = tuple(min(EDGE, edge) for edge in case.image.shape[-3:])
        draw = Compose(
            [
                RandCropByPosNegLabeld(["image", "label"], "label", crop, pos=1, neg=1, num_samples=CROPS),
                RandShiftIntensityd(["image"], offsets=0.1, prob=0.2),
            ]
        )
        optimiser.zero_grad()
        values = []
        for item in draw({"image": case.image, "label": case.label}):
            with autocast(device):
                scores = network(item["image"].as_tensor()[None])
            loss = _dice_loss(scores.float(), item["label"].as_tensor()[None]) / CROPS
            loss.backward()
            values.append(float(loss.detach()))
        optimiser.step()
        steps += 1
        losses.append(sum(values))
        if steps % row.shots == 0 and _plateau(np.reshape(losses, (-1, row.shots)).mean(1)):
            break
    trained = time.process_time() - ready
    x, y, z = (min(EDGE, -(-max(case.image.shape[axis - 3] for case in prepared) // 8) * 8) for axis in range(3))

    def segment(case: Case) -> npt.NDArray[np.uint8]:
        volume = preprocessing.prepare(read_volume(case.image))
        scores = sliding_window_scores(
            network, volume.image, (x, y, z), device, progress=ignore_progress, should_stop=never_stop
        )
        return volume.restore_segmentation(scores)

    return Trained(segment, ready - started, trained, steps, {"backbone": "comes with FM3D", "method": "linear probe"})


def _dice_loss(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - (2 |p y| + 1) / (|p| + |y| + 1), mean of classes and crops; scores (1, classes, X, Y, Z)."""
    from torch.nn import functional as F

    truth = F.one_hot(label[:, 0].long(), scores.shape[1]).movedim(-1, 1).float()
    found = scores.softmax(1)
    both, either = (found * truth).sum((2, 3, 4)), (found + truth).sum((2, 3, 4))
    return 1 - ((2 * both + 1) / (either + 1)).mean()


def _plateau(losses: npt.NDArray[np.float64]) -> bool:
    if len(losses) <= 31:
        return False
    smooth = np.convolve(losses, np.ones(10) / 10, mode="valid")
    return len(smooth) > 20 and bool(smooth[-21] - smooth[-1] < 0.001)
