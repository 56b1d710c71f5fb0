"""How the prompt decoder that ships was made: simulated clicks on made-up anatomies, no volume of any patient.

    python benchmarks/prompt_decoder.py --out RUN        # 15 minutes of one core

What is in RUN then, the weights and the entry that names them by hash, goes to fm3d_core/inference/interactive/shipped;
the hash also to fm3d_core/models/weights/shipped/MODEL_CARD.md.

Each scene is a random anatomy (fm3d_core/pretraining/synthetic_anatomy), of which one structure is to be found. Clicks
come one after the other: the first inside of it, each further one in the largest error of what the decoder drew so far
(Sofiiuk et al. 2022, RITM). The backbone, fm3d_small, stays frozen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from rich.console import Console
from scipy import ndimage
from torch.nn import functional as F

from fm3d_core.devices import autocast
from fm3d_core.files import atomic_file, sha256_of
from fm3d_core.inference.interactive.features import default_backbone
from fm3d_core.inference.interactive.prompt_maps import PromptMaps, stacked
from fm3d_core.models.prompt_decoder import PromptDecoder
from fm3d_core.pretraining.synthetic_anatomy.anatomy import draw_anatomy
from fm3d_core.pretraining.synthetic_anatomy.patient import draw_patient
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import generator_of
from fm3d_core.pretraining.synthetic_anatomy.scan import draw_scanner, scan

SIZES = (32, 40, 40, 48, 48, 56)
SMALLEST = 60  # voxels of a structure to be found
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scene:
    """What is to be found, and where.

    Attributes:
        image: (X, Y, Z) in [-1, 1].
        target: (X, Y, Z) bool.
        unit: proportions of the voxel, the smallest 1.
    """

    image: torch.Tensor
    target: npt.NDArray[np.bool_]
    unit: tuple[float, float, float]


def draw_scene(seed: int) -> Scene | None:
    """One scene, None where chance gave no structure large enough."""
    random = np.random.default_rng(seed)
    generator = generator_of(seed)
    size = [int(random.choice(SIZES))] * 3
    unit = [1.0, 1.0, 1.0]
    if random.random() < 0.3:
        axis, times = int(random.integers(3)), float(random.uniform(1.5, 4))
        size[axis], unit[axis] = max(16, round(size[axis] / times / 8) * 8), times
    anatomy = draw_anatomy(generator)
    label = draw_patient(anatomy, (size[0], size[1], size[2]), generator)
    image = scan(label, draw_scanner(anatomy.labels, anatomy.air, generator), generator)
    target = _choose(label.numpy(), random)
    return None if target is None else Scene(image, target, (unit[0], unit[1], unit[2]))


def _choose(label: Any, random: np.random.Generator) -> Any:
    """A structure, or two that touch; small ones as likely as large ones. Of several parts, one."""
    counts = np.bincount(label.ravel())
    able = np.flatnonzero(counts >= SMALLEST)
    if len(able) < 2:
        return None
    chance = counts[able] ** -0.25
    chosen = random.choice(able, p=chance / chance.sum())
    mask = label == chosen
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = parts == sizes.argmax()
    if random.random() < 0.2:
        around = label[ndimage.binary_dilation(mask) & ~mask]
        other = np.bincount(around, minlength=len(counts)).argmax() if len(around) else chosen
        if 0 < counts[other] < 2 * mask.sum():
            mask = mask | (label == other)
    return mask if SMALLEST <= mask.sum() < 0.6 * mask.size else None


def click(wrong: Any, unit: tuple[float, float, float], random: np.random.Generator, depth: float) -> tuple[int, ...]:
    """A voxel inside of ``wrong``: among those at least ``depth`` times as deep as the deepest."""
    inside = ndimage.distance_transform_edt(np.pad(wrong, 1), sampling=unit)[1:-1, 1:-1, 1:-1]
    return tuple(int(number) for number in random.permutation(np.argwhere(inside >= depth * inside.max()))[0])


def largest(mask: Any) -> Any:
    """The largest connected part."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


@dataclass(frozen=True)
class Training:
    """How it is trained.

    Attributes:
        out: folder of prompt_decoder.safetensors and prompt_decoder.yaml, written every minute.
        seconds: of processor time.
        clicks: per scene, at most.
        learning_rate: highest.
        seed: of the first scene.
    """

    out: Path
    seconds: float = 900
    clicks: int = 4
    learning_rate: float = 2e-3
    seed: int = 10_000

    def run(self) -> None:
        """Train."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        console = Console()
        backbone = default_backbone()
        decoder = PromptDecoder(backbone.feature_channels)
        average = torch.optim.swa_utils.AveragedModel(
            decoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        )
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        start, saved, losses, scores = time.process_time(), 0.0, [], []
        for step, scene in enumerate(self._scenes()):
            spent = time.process_time() - start
            done = min(spent / self.seconds, 1.0)
            rate = self.learning_rate * min(1, (step + 1) / 50, (1 - done) * 3 + 0.01)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, dice = self._learn(backbone, decoder, scene, np.random.default_rng(self.seed + step))
            norm = torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            if bool(norm.isfinite()):
                optimizer.step()
            else:
                console.print(f"step {step}: gradient {norm}")
            optimizer.zero_grad(set_to_none=True)
            average.update_parameters(decoder)
            losses.append(loss)
            scores.append(dice)
            if step % 50 == 49:
                first, last = (np.mean([score[i] for score in scores[-50:]]) for i in (0, -1))
                console.print(
                    f"{step + 1} {spent:.0f} s: loss {np.mean(losses[-50:]):.3f}, Dice {first:.3f} {last:.3f}",
                    highlight=False,
                )
            if spent - saved > 60 or done >= 1:
                saved = spent
                self._save(average.module)
            if done >= 1:
                break

    def _scenes(self) -> Iterator[Scene]:
        seed = self.seed
        while True:
            seed += 1
            if (scene := draw_scene(seed)) is not None:
                yield scene

    def _learn(
        self, backbone: Any, decoder: PromptDecoder, scene: Scene, random: np.random.Generator
    ) -> tuple[float, list[float]]:
        """Gradients of a few clicks on one scene; mean loss, Dice after each."""
        image = scene.image[None, None]
        with torch.inference_mode(), autocast(CPU):
            maps = backbone.features(image)
        maps = [each.clone() for each in maps]
        with autocast(CPU):
            encoded = decoder.encode(maps)
        pooled = F.avg_pool3d(image, 2)
        half = pooled[0, 0].numpy()
        truth = torch.from_numpy(scene.target)[None, None].float()
        coarse_truth = F.avg_pool3d(truth, 2)
        positive, negative = np.zeros(half.shape, bool), np.zeros(half.shape, bool)
        found = np.zeros(scene.target.shape, bool)
        keeps, previous = random.random() < 0.5, None
        boxed = _box(scene.target, half.shape, random) if random.random() < 0.15 else None
        count = int(random.integers(1, self.clicks + 1))
        losses, scores = [], []
        for number in range(count):
            missed, excess = largest(scene.target & ~found), largest(found & ~scene.target)
            more = missed.sum() >= excess.sum()
            wrong = missed if more else excess
            if not wrong.any():
                break
            if not (number == 0 and boxed is not None and random.random() < 0.5):
                place = click(wrong, scene.unit, random, 0.9 if number == 0 and random.random() < 0.5 else 0.5)
                index = tuple(min(axis // 2, size - 1) for axis, size in zip(place, half.shape, strict=True))
                (positive if more else negative)[index] = True
                (negative if more else positive)[index] = False
            sides = [PromptMaps.of(mask, half, scene.unit) for mask in (positive, negative)]
            prompts = torch.from_numpy(stacked(sides[0], sides[1], boxed, previous))[None]
            with autocast(CPU):
                fine, coarse = decoder(encoded, image, prompts, *(torch.from_numpy(side.voxels) for side in sides))
            losses.append(_loss(fine.float(), truth) + 0.3 * _loss(coarse.float(), coarse_truth))
            found = (fine.detach()[0, 0] > 0).numpy()
            previous = F.avg_pool3d(fine.detach().float().sigmoid(), 2)[0, 0].numpy() if keeps else None
            scores.append(float(2 * (found & scene.target).sum() / max(found.sum() + scene.target.sum(), 1)))
        loss = torch.stack(losses).mean()
        loss.backward()
        return float(loss.detach()), scores

    def _save(self, decoder: PromptDecoder) -> None:
        import yaml
        from safetensors.torch import save

        state = {name: tensor.half().contiguous() for name, tensor in decoder.state_dict().items()}
        path = self.out / "prompt_decoder.safetensors"
        with atomic_file(path) as temporary:
            temporary.write_bytes(save(state, {"options": json.dumps(decoder.config)}))
        entry = {"file": path.name, "sha256": sha256_of(path), "backbone": "fm3d_small", "licence": "Apache-2.0"}
        with atomic_file(path.with_suffix(".yaml")) as temporary:
            temporary.write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")


def _box(target: Any, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """The box around the target at half the resolution, up to a tenth too large."""
    mask = np.zeros(shape, bool)
    ends = []
    for axis, size in enumerate(shape):
        found = np.flatnonzero(target.any(axis=tuple(other for other in range(3) if other != axis)))
        more = (found[-1] - found[0] + 1) * 0.1 * random.random(2)
        ends.append(slice(max(int((found[0] - more[0]) // 2), 0), min(int((found[-1] + more[1]) // 2) + 1, size)))
    mask[tuple(ends)] = True
    return mask


def _loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice and cross-entropy."""
    found = logits.sigmoid()
    dice = 1 - (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
    weight = 0.5 / truth.mean().clamp(min=0.01)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    balanced = (entropy * (1 + (weight.clamp(max=5) - 1) * truth)).mean()
    return dice + balanced


def main(training: Training) -> None:
    """Train."""
    training.run()


if __name__ == "__main__":
    main(tyro.cli(Training))
