"""Inpainting, contrast and rotation on one backbone, as the engine runs them.

Tang et al. 2022 (Swin UNETR's self-supervised pretraining): the sum of three terms with weight 1 each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.crops import CropSettings
from fm3d_core.pretraining.objective import Built, Objective, Place
from fm3d_core.pretraining.parameter_groups import set_learning_rate
from fm3d_core.pretraining.pretext.contrast import contrastive_loss
from fm3d_core.pretraining.pretext.heads import PretextHeads
from fm3d_core.pretraining.pretext.loading import ViewBatch, view_loader
from fm3d_core.pretraining.pretext.views import CutOutSettings
from fm3d_core.pretraining.probing import freeze, probe
from fm3d_core.pretraining.schedules import CosineSchedule
from fm3d_core.pretraining.starting_backbone import starting_backbone
from fm3d_core.volumes.crop_store import CropStore


@dataclass(frozen=True)
class Settings:
    """A run. Numbers of the paper: weights of the terms, cut-out, embedding, learning rate, decay, warm-up, steps.

    Attributes:
        backbone: a preset of the zoo; weights: to begin with, a file or an id of ``fm3d weights list``.
        crop_size, area, depth: see :class:`~fm3d_core.pretraining.crops.CropSettings`; shares as 3DINO's global
            crops, so that both see the same.
        cut_out: share of the voxels hidden; box_side: of the boxes; fill: see
            :class:`~fm3d_core.pretraining.pretext.views.CutOutSettings`.
        inpainting, contrast, rotation: weights of the terms.
        temperature: of the contrast (the paper gives none; SimCLR's 0.5).
        embedding: its length.
        learning_rate, weight_decay: of AdamW, for all parameters.
        steps, warmup_steps: the rate rises in a straight line from 0, then follows a cosine to 0.
        gradient_clip: largest norm of backbone and heads.
        min_axis: volumes with fewer voxels along an axis are passed over.
        modalities: only these; empty takes all.

    Raises:
        SettingsError: an impossible value.
    """

    backbone: str = "swin_unetr_base_legacy"
    weights: str | None = None
    crop_size: tuple[int, int, int] = (96, 96, 96)
    area: tuple[float, float] = (0.48, 1.0)
    depth: tuple[float, float] = (0.5, 1.0)
    cut_out: float = 0.3
    box_side: tuple[float, float] = (1 / 16, 1 / 4)
    fill: float = 0.0
    inpainting: float = 1.0
    contrast: float = 1.0
    rotation: float = 1.0
    temperature: float = 0.5
    embedding: int = 512
    learning_rate: float = 4e-4
    weight_decay: float = 1e-5
    steps: int = 450_000
    warmup_steps: int = 500
    gradient_clip: float = 1.0
    min_axis: int = 0
    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("crop_size", "area", "depth", "box_side", "modalities"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # YAML gives lists
        if self.crop_size[0] != self.crop_size[1]:
            raise SettingsError(
                f"crops of {self.crop_size} voxels cannot be turned by 90 degrees",
                remedy="Give the first two sides the same length",
            )
        terms = (self.inpainting, self.contrast, self.rotation)
        if min(terms) < 0 or not any(terms) or self.temperature <= 0 or self.embedding < 1:
            raise SettingsError(
                "weights must not be below 0 (nor all 0), temperature and embedding above it", remedy="Correct them"
            )
        if not 0 <= self.warmup_steps <= self.steps or self.steps < 1 or self.learning_rate <= 0:
            raise SettingsError(
                f"a warm-up of {self.warmup_steps} does not fit {self.steps} steps, or no learning rate",
                remedy="Correct the schedule",
            )
        _ = self.crop, self.boxes  # check the others

    @property
    def crop(self) -> CropSettings:
        """What is cut of a volume."""
        return CropSettings(self.crop_size, 1, self.area, self.depth)

    @property
    def boxes(self) -> CutOutSettings:
        """What is hidden of a crop."""
        return CutOutSettings(self.cut_out, self.box_side, self.fill)


class Pretext(Objective):
    """A backbone's coarsest map and three heads.

    Args:
        backbone: of the zoo.
        settings: of the run.
    """

    def __init__(self, backbone: Any, settings: Settings) -> None:
        super().__init__()
        self.backbone, self.settings = backbone, settings
        self.heads = PretextHeads(backbone.feature_channels[-1], backbone.feature_strides[-1], settings.embedding)
        self.schedule = CosineSchedule(settings.learning_rate, 0.0, settings.steps, settings.warmup_steps)
        found = probe(self, _everything)
        freeze(self, found.unreached)  # such as a U-Net's decoder, which the paper does not pretrain either
        self._flops = found.flops

    def forward(self, batch: ViewBatch) -> dict[str, torch.Tensor]:
        """The weighted terms over all views.

        Inpainting: the mean absolute error over all voxels. Rotation: cross-entropy of four angles. Contrast:
        :func:`contrastive_loss`. (Tang et al. 2022, section 3.2, and their sum.)
        """
        settings = self.settings
        painted, angles, embeddings = self._outputs(batch.images.masked_fill(batch.hidden, settings.fill))
        first, second = embeddings.chunk(2)
        return {
            "inpainting": settings.inpainting * F.l1_loss(painted.float(), batch.images.float()),
            "contrast": settings.contrast * contrastive_loss(first, second, settings.temperature),
            "rotation": settings.rotation * F.cross_entropy(angles.float(), batch.quarters),
        }

    def _outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.heads(coarsest_map(self.backbone, images), images.shape[-3:])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": parameters, "lr": self.settings.learning_rate, "weight_decay": self.settings.weight_decay}]

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Set the learning rate."""
        return set_learning_rate(groups, self.schedule.at(step))

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        """Backbone and heads."""
        return {"backbone": self.backbone, "heads": self.heads}

    def pretrained(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    def flops_per_sample(self) -> float:
        """Of the two views of a crop."""
        return self._flops


def coarsest_map(backbone: Any, images: torch.Tensor) -> torch.Tensor:
    """The deepest features: of Swin UNETR the transformer's output alone, else the last map of ``features``."""
    if hasattr(backbone, "encode"):
        return backbone.encode(images)
    return backbone.features(images)[-1]


def build(settings: Settings, data: Path | None, place: Place) -> Built:
    """Open the data and make networks, losses and loader.

    Args:
        data: a crop store (``fm3d data cache``).

    Raises:
        SettingsError: no data, crops that the backbone cannot take, or too few volumes per step for the contrast.
        CaseError: no crop store, or nothing in it is left.
        WeightsError: see :func:`starting_backbone`.
    """
    if data is None:
        raise SettingsError("pretext tasks need a crop store", remedy="Make one with fm3d data cache and give --data")
    if settings.contrast and place.batch_size < 2:
        raise SettingsError(
            "the contrast needs at least two volumes in a batch", remedy="Raise batch_size, or set contrast to 0"
        )
    store = CropStore(Path(data), settings.min_axis, settings.modalities)
    backbone = starting_backbone(settings.backbone, settings.weights, [settings.crop_size], place.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(place.seed)
        objective = Pretext(backbone, settings).train()
    loader = view_loader(store, settings.crop, settings.boxes, place)
    return Built(objective, loader, settings.steps, settings.gradient_clip, len(store))


def _everything(objective: nn.Module) -> torch.Tensor:
    """A scalar that depends on whatever the terms depend on, for two views."""
    assert isinstance(objective, Pretext)
    images = torch.empty(2, 1, *objective.settings.crop_size, device="meta")
    settings = objective.settings
    weights = (settings.inpainting, settings.rotation, settings.contrast)
    outputs = zip(objective._outputs(images), weights, strict=True)
    return torch.stack([output.sum() for output, weight in outputs if weight]).sum()
