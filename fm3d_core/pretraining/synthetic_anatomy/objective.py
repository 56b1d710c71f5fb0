"""Contrastive pretraining of any backbone on made-up anatomies: a structure has like features in all patients.

Dey et al. 2025 (anatomix): supervised contrast between voxels of two scans of one label map. Here the two are also two
patients, because a few-shot user labels one patient to segment another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fm3d_core.errors import SettingsError
from fm3d_core.models.voxel_features import features_at
from fm3d_core.pretraining.objective import Built, Objective, Place
from fm3d_core.pretraining.parameter_groups import set_learning_rate
from fm3d_core.pretraining.schedules import CosineSchedule
from fm3d_core.pretraining.starting_backbone import starting_backbone
from fm3d_core.pretraining.synthetic_anatomy.contrast import supervised_contrast
from fm3d_core.pretraining.synthetic_anatomy.loading import PairBatch, PairSettings, pair_loader


@dataclass(frozen=True)
class Settings:
    """A run on synthetic anatomies.

    Attributes:
        backbone: preset name.
        pairs: what a sample is.
        embedding: width of the linear projection whose cosine is compared.
        temperature: of the contrast.
        learning_rate: of AdamW, after ``warmup_steps``; then half a cosine wave to 0 at ``steps``.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.

    Raises:
        SettingsError: an impossible value.
    """

    backbone: str = "residual_unet_small"
    pairs: PairSettings = field(default_factory=PairSettings)
    embedding: int = 64
    temperature: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    steps: int = 10_000
    gradient_clip: float = 12.0

    def __post_init__(self) -> None:
        positive = (self.embedding, self.temperature, self.learning_rate, self.steps, self.gradient_clip)
        if min(positive) <= 0 or not 0 <= self.warmup_steps <= self.steps:
            raise SettingsError(f"impossible settings {self}", remedy="Give values above 0 and a warm-up that fits")


class SyntheticContrast(Objective):
    """Voxels of the same structure are alike in two patients, all others are not.

    Args:
        settings: of the run.
        seed: of the weights.

    Raises:
        SettingsError: unknown preset, or sizes that it cannot take.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.backbone: Any = starting_backbone(settings.backbone, None, settings.pairs.sizes, seed).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # linear, so that what it tells apart a linear head on the features can tell apart
            self.projection = nn.Linear(sum(self.backbone.feature_channels), settings.embedding, bias=False)
        self._schedule = CosineSchedule(settings.learning_rate, 0.0, settings.steps, settings.warmup_steps)

    def forward(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        """``contrast``: the mean over the pairs."""
        x, y, z = batch.images.shape[-3:]
        maps = self.backbone.features(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            features = features_at(maps, batch.voxels, (x, y, z))  # (2B, n, C)
            embedded = self.projection(features).unflatten(0, (-1, 2)).flatten(1, 2)  # (B, 2n, E)
            losses = [
                supervised_contrast(pair, label, self.settings.temperature)
                for pair, label in zip(embedded, batch.labels, strict=True)
            ]
            return {"contrast": torch.stack(losses).mean()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights decay, biases and norms do not."""
        settings = self.settings
        decayed = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        groups = [
            {"params": decayed, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": others, "lr": settings.learning_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Set the learning rate."""
        return set_learning_rate(groups, self._schedule.at(step))

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        """Backbone and projection together."""
        return {"all": self}

    def pretrained(self) -> nn.Module:
        """The backbone."""
        return self.backbone


def build(settings: Settings, data: Path | None, place: Place) -> Built:
    """The objective and its endless data.

    Raises:
        SettingsError: data is given, which this objective does not use, or the backbone cannot take the sizes.
    """
    if data is not None:
        raise SettingsError("synthetic anatomies need no data", path=data, remedy="Leave --data out")
    return Built(
        SyntheticContrast(settings, place.seed),
        pair_loader(settings.pairs, place),
        settings.steps,
        settings.gradient_clip,
    )
