"""Mean Dice against training seconds for k labelled hippocampus volumes, next to a MONAI U-Net from scratch.

    python benchmarks/few_shot.py --data ../shared/data/hippocampus

Both learn from the same volumes for the same wall seconds, one after the other in one process, with the same threads
and bfloat16 where the processor has it. The peer is MONAI's UNet 16-32-64-128 with two residual units, AdamW 2e-3 with
polynomial decay, MONAI's affine, noise, scale and contrast augmentation and Dice + cross-entropy: the best from-scratch
network of ../shared/specs/few_shot_anchor.md. Test volumes: the last 20 of the folder in order of name, native grid, no
post-processing. Training volumes are of different subjects (ids 2k-1 and 2k are one subject).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, finetune
from fm3d_core.devices import autocast
from fm3d_core.evaluation import dice_per_label
from fm3d_core.inference import Predictor
from fm3d_core.tasks import SegmentationTask
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import Case, find_cases, read_label, read_label_names, read_volume

TRAINING = ("001", "003", "007", "011", "015")
TEST_VOLUMES = 20


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        data: folder of the hippocampus volumes: images/, labels/, dataset.json.
        shots: numbers of labelled volumes.
        seconds: training budgets.
        seeds: runs per setting.
        method: FM3D's finetuning method.
        threads: of the processor, for both.
        out: a JSON file for the figures.
    """

    data: Path = Path("../shared/data/hippocampus")
    shots: tuple[int, ...] = (1, 3, 5)
    seconds: tuple[float, ...] = (15, 30, 60)
    seeds: int = 1
    method: str = "full"
    threads: int = 2
    out: Path | None = None

    def run(self) -> None:
        """Measure and print the table."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(self.threads)
        console = Console()
        cases = {case.name: case for case in find_cases(self.data, labelled=True)}
        labels = tuple(read_label_names(self.data).values())
        test = list(cases.values())[-TEST_VOLUMES:]
        table = Table("k", "seconds", "FM3D", "MONAI U-Net", "difference", title="Mean Dice, hippocampus")
        rows = []
        for shots in self.shots:
            training = [cases[f"hippocampus_{number}"] for number in TRAINING[:shots]]
            for seconds in self.seconds:
                mine, peer = [], []
                for seed in range(self.seeds):
                    mine.append(_fm3d(training, test, labels, seconds, seed, self.method))
                    peer.append(_unet(training, test, labels, seconds, seed))
                rows.append({"k": shots, "seconds": seconds, "fm3d": np.mean(mine), "unet": np.mean(peer)})
                figures = (f"{np.mean(mine):.3f}", f"{np.mean(peer):.3f}", f"{np.mean(mine) - np.mean(peer):+.3f}")
                table.add_row(str(shots), f"{seconds:g}", *figures)
                console.print(f"k={shots} {seconds:g} s: FM3D {figures[0]}, U-Net {figures[1]}")
        console.print(table)
        if self.out is not None:
            self.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _score(predictions: Iterator[np.ndarray], test: list[Case], labels: tuple[str, ...]) -> float:
    scores = [
        list(dice_per_label(prediction, read_label(case.label).array, labels).values())
        for prediction, case in zip(predictions, test, strict=True)
        if case.label is not None
    ]
    return float(np.mean(scores))


def _fm3d(
    training: list[Case], test: list[Case], labels: tuple[str, ...], seconds: float, seed: int, method: str
) -> float:
    cases = [LabeledCase(case.name, case.image, case.label) for case in training if case.label is not None]
    settings = FinetuneSettings(method=method, seconds=seconds, seed=seed)
    predictor = Predictor(finetune(cases, SegmentationTask(labels), settings))
    return _score((predictor.segment(read_volume(case.image)) for case in test), test, labels)


def _unet(training: list[Case], test: list[Case], labels: tuple[str, ...], seconds: float, seed: int) -> float:
    """MONAI's U-Net from scratch, as ../shared/tools/unet_anchor.py trains it, bounded by wall seconds."""
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised, RandScaleIntensityd
    from monai.utils import set_determinism

    set_determinism(seed)
    random, device = np.random.default_rng(seed), torch.device("cpu")
    volumes = [_padded(case) for case in training]
    network = UNet(3, 1, len(labels) + 1, (16, 32, 64, 128), (2, 2, 2), num_res_units=2, norm="instance")
    augment = Compose(
        [
            RandAffined(
                ["image", "label"],
                prob=0.9,
                rotate_range=(0.25,) * 3,
                scale_range=(0.15,) * 3,
                translate_range=(4,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianNoised(["image"], prob=0.3, std=0.15),
            RandScaleIntensityd(["image"], factors=0.2, prob=0.5),
            RandAdjustContrastd(["image"], prob=0.3, gamma=(0.7, 1.5)),
        ]
    )
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4)
    start = time.monotonic()
    while (spent := time.monotonic() - start) < seconds:
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - spent / seconds) ** 0.9
        chosen = [volumes[index] for index in random.integers(0, len(volumes), 2)]
        batch = [augment({"image": image, "label": label}) for image, label, _ in chosen]
        image = torch.stack([item["image"].as_tensor() for item in batch])
        label = torch.stack([item["label"].as_tensor() for item in batch])
        with autocast(device):
            scores = network(image)
        optimiser.zero_grad()
        loss_function(scores.float(), label).backward()
        optimiser.step()
    network.eval()

    def predictions() -> Iterator[np.ndarray]:
        for image, _, inside in map(_padded, test):
            with torch.no_grad(), autocast(device):
                yield network(image[None]).float().argmax(1)[0].numpy().astype(np.uint8)[inside]

    return _score(predictions(), test, labels)


def _padded(case: Case) -> tuple:
    """Image and label (1, 48, 64, 48) with zero mean and unit deviation, and where the volume lies in them."""
    import torch

    assert case.label is not None
    image = read_volume(case.image).array
    image = (image - image.mean()) / (image.std() + 1e-6)
    before = [(edge - size) // 2 for size, edge in zip(image.shape, (48, 64, 48), strict=True)]
    padding = [
        (first, edge - size - first) for size, edge, first in zip(image.shape, (48, 64, 48), before, strict=True)
    ]
    label = np.pad(read_label(case.label).array.astype(np.float32), padding)
    padded = np.pad(image, padding, constant_values=image.min()).astype(np.float32)
    inside = tuple(slice(first, first + size) for size, first in zip(image.shape, before, strict=True))
    return torch.from_numpy(padded)[None], torch.from_numpy(label)[None], inside


if __name__ == "__main__":
    tyro.cli(Benchmark, description=__doc__).run()
