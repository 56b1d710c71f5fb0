"""Supervised pretraining on partially labelled sets, as the engine runs it.

Silva-Rodriguez et al. 2023/2025 (FSEFT): one network, one sigmoid per structure of all sets, soft Dice over what the
crop's set has annotated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from fm3d_core.errors import SettingsError
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.light_decoder import LightDecoder
from fm3d_core.models.network import DenseNetwork
from fm3d_core.pretraining.objective import Built, Objective, Place
from fm3d_core.pretraining.parameter_groups import set_learning_rate
from fm3d_core.pretraining.partial_labels.crops import LabelledCropSettings
from fm3d_core.pretraining.partial_labels.label_maps import LabelMaps, read_label_maps
from fm3d_core.pretraining.partial_labels.labelled_sets import find_labelled_sets
from fm3d_core.pretraining.partial_labels.left_right import Rule
from fm3d_core.pretraining.partial_labels.loading import LabelledBatch, labelled_loader
from fm3d_core.pretraining.partial_labels.loss import OTHER, Term, partial_terms
from fm3d_core.pretraining.partial_labels.preparation import PreparationSettings
from fm3d_core.pretraining.partial_labels.prepared_sets import cache_folder, prepare_sets
from fm3d_core.pretraining.probing import freeze, probe
from fm3d_core.pretraining.schedules import CosineSchedule
from fm3d_core.pretraining.starting_backbone import starting_backbone
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop

Loss = Literal["dice", "dice_and_cross_entropy"]
Head = Literal["finest", "all"]


@dataclass(frozen=True)
class Settings:
    """A run; the defaults are FSEFT's published one.

    Attributes:
        backbone: a preset of the zoo; weights: to begin with, a file or an id of ``fm3d weights list``.
        head: "finest": one linear layer on the finest map of a pyramid (published); "all": on all maps. Token
            backbones have the light decoder in any case.
        loss: "dice" (published), or "dice_and_cross_entropy" (CLIP-Driven Universal Model, SuPreM).
        label_maps: a YAML file in place of the published maps.
        cache: folder of prepared volumes; None for ``FM3D_HOME/cache/partial_labels``.
        spacing, window, percentiles, left_right: see :class:`PreparationSettings`.
        crop_size, crops_per_volume, positive, intensity_range, zoom, zoom_probability, turn_probability, shift,
            shift_probability: see :class:`LabelledCropSettings`.
        learning_rate, weight_decay: of AdamW, for all parameters.
        epochs, warmup_epochs: the rate rises in a straight line from 0, then follows a cosine to 0. An epoch is as
            many samples as there are volumes.
        steps, warmup_steps: in place of the epochs.
        gradient_clip: largest norm; None does not clip (published).

    Raises:
        SettingsError: an impossible value.
    """

    backbone: str = "swin_unetr_base_legacy"
    weights: str | None = None
    head: Head = "finest"
    loss: Loss = "dice"
    label_maps: str | None = None
    cache: str | None = None
    spacing: tuple[float, float, float] | None = (1.5, 1.5, 1.5)
    window: tuple[float, float] | None = (-175.0, 250.0)
    percentiles: tuple[float, float] = (0.05, 99.95)
    left_right: Rule = "components"
    crop_size: tuple[int, int, int] = (96, 96, 96)
    crops_per_volume: int = 3
    positive: float = 0.8
    intensity_range: tuple[float, float] = (0.0, 1.0)
    zoom: tuple[float, float] = (1.1, 1.3)
    zoom_probability: float = 0.3
    turn_probability: float = 0.1
    shift: float = 0.1
    shift_probability: float = 0.2
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    epochs: int = 1000
    warmup_epochs: int = 10
    steps: int | None = None
    warmup_steps: int | None = None
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("spacing", "window", "percentiles", "crop_size", "intensity_range", "zoom"):
            value = getattr(self, name)
            if isinstance(value, list):  # as YAML gives it
                object.__setattr__(self, name, tuple(value))
        for name, choices in (("head", get_args(Head)), ("loss", get_args(Loss))):
            if getattr(self, name) not in choices:
                raise SettingsError(f"{name} is {getattr(self, name)!r}", remedy=f"Choose one of {', '.join(choices)}")
        lengths = (self.epochs, self.steps if self.steps is not None else 1)
        if min(lengths) < 1 or not 0 <= self.warmup_epochs <= self.epochs or (self.warmup_steps or 0) < 0:
            raise SettingsError("no steps to train, or a warm-up longer than the run", remedy="Correct the lengths")
        if self.learning_rate <= 0 or self.weight_decay < 0 or (self.gradient_clip or 1) <= 0:
            raise SettingsError(
                "learning rate and gradient clip must be above 0, weight decay not below", remedy="Correct them"
            )
        _ = self.preparation, self.crops  # check the others

    @property
    def preparation(self) -> PreparationSettings:
        """How volumes are prepared."""
        return PreparationSettings(self.spacing, self.window, self.percentiles, self.left_right)

    @property
    def crops(self) -> LabelledCropSettings:
        """What is cut of them."""
        return LabelledCropSettings(
            self.crop_size,
            self.crops_per_volume,
            self.positive,
            self.intensity_range,
            self.zoom,
            self.zoom_probability,
            self.turn_probability,
            self.shift,
            self.shift_probability,
        )

    def schedule(self, volumes: int, samples_per_step: int) -> CosineSchedule:
        """The learning rate over the steps of the run.

        Raises:
            SettingsError: the warm-up is longer than the run.
        """
        epoch = math.ceil(volumes / samples_per_step)
        steps = self.steps if self.steps is not None else self.epochs * epoch
        warmup = self.warmup_steps
        if warmup is None:
            # a run of given steps keeps the published share of warm-up
            warmup = self.warmup_epochs * epoch if self.steps is None else steps * self.warmup_epochs // self.epochs
        if warmup > steps:
            raise SettingsError(f"a warm-up of {warmup} steps does not fit {steps}", remedy="Shorten the warm-up")
        return CosineSchedule(self.learning_rate, 0.0, steps, warmup)


class FinestMapHead(LinearHead):
    """A linear layer on the finest map of a pyramid (of Swin UNETR: its published last layer)."""

    def __init__(self, feature_channels: Sequence[int], classes: int) -> None:
        super().__init__(feature_channels[:1], classes)

    def forward(self, maps: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes, X, Y, Z); see :class:`~fm3d_core.models.heads.LinearHead`."""
        return super().forward(maps[:1], image)


class PartialLabels(Objective):
    """A backbone and a head over the union of the sets' structures.

    Args:
        network: gives scores (B, C, X, Y, Z).
        structures: names of the C channels.
        maps: numbers the structures in the labels of a batch.
        schedule: of the learning rate.
        settings: of the run.

    Attributes:
        structures: as given; row i of the head's last layer belongs to ``structures[i]``.
    """

    channel_of: torch.Tensor

    def __init__(
        self,
        network: DenseNetwork,
        structures: Sequence[str],
        maps: LabelMaps,
        schedule: CosineSchedule,
        settings: Settings,
    ) -> None:
        super().__init__()
        self.network, self.structures, self.schedule, self.settings = network, tuple(structures), schedule, settings
        channel_of = torch.full((256,), OTHER, dtype=torch.uint8)
        for channel, name in enumerate(self.structures):
            channel_of[maps.value_of(name)] = channel
        self.register_buffer("channel_of", channel_of)
        found = probe(network, lambda net: net(torch.empty(1, 1, *settings.crop_size, device="meta")).sum())
        freeze(network, found.unreached)
        self._flops = found.flops * settings.crops_per_volume

    def forward(self, batch: LabelledBatch) -> dict[str, torch.Tensor]:
        """The terms of the loss over the batch's crops."""
        terms: tuple[Term, ...] = ("dice",) if self.settings.loss == "dice" else ("dice", "cross_entropy")
        channels = self.channel_of[batch.labels.long()]
        return partial_terms(self.network(batch.images), channels, batch.annotated, terms)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: FSEFT decays every parameter."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        rate = self.settings.learning_rate
        return [{"params": parameters, "lr": rate, "weight_decay": self.settings.weight_decay}]

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Set the learning rate."""
        return set_learning_rate(groups, self.schedule.at(step))

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        """Backbone and head."""
        return {"backbone": self.network.backbone, "head": self.network.head}

    def pretrained(self) -> nn.Module:
        """The backbone."""
        return self.network.backbone

    def also_exported(self) -> Mapping[str, nn.Module]:
        """The head, if it is one linear layer on the finest map: then its structures can be asked for by name."""
        return {"head": self.network.head} if isinstance(self.network.head, FinestMapHead) else {}

    def told(self) -> Mapping[str, Any]:
        """What :func:`fm3d_core.models.weights.known_head.own_head` needs to know of the head."""
        if not self.also_exported():
            return {}
        settings = self.settings
        fed = {
            "range": settings.intensity_range,
            "window": settings.window,
            "spacing": settings.spacing,
            "crop": settings.crop_size,
        }
        return {"classifier": {"classes": self.structures, "rule": "sigmoid", "fed": fed}}

    def flops_per_sample(self) -> float:
        """Of the crops of one volume."""
        return self._flops


def build(
    settings: Settings,
    data: Path | None,
    place: Place,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Built:
    """Prepare the data and make network, loss and loader.

    Args:
        data: a YAML list of labelled sets or a folder of them; see
            :func:`~fm3d_core.pretraining.partial_labels.labelled_sets.find_labelled_sets`.
        progress, should_stop: of the preparation, which takes long the first time.

    Raises:
        FM3DError: see :func:`find_labelled_sets`, :func:`prepare_sets`, and for the backbone
            :func:`starting_backbone`.
    """
    maps = read_label_maps(settings.label_maps)
    sets = find_labelled_sets(data, maps)
    network_of = _network_maker(settings, place.seed)  # refuses before the long preparation
    root = Path(settings.cache) if settings.cache else cache_folder()
    report = prepare_sets(
        sets,
        maps,
        settings.preparation,
        root,
        workers=place.workers,
        share=(place.rank, place.world_size),
        progress=progress,
        should_stop=should_stop,
    )
    structures = maps.union(item.label_map for item in sets)
    volumes = sum(len(item.cases) for item in report.sets)
    schedule = settings.schedule(volumes, place.batch_size * place.world_size)
    objective = PartialLabels(network_of(len(structures)), structures, maps, schedule, settings).train()
    loader = labelled_loader(report.sets, structures, settings.crops, root, place)
    clip = settings.gradient_clip if settings.gradient_clip is not None else math.inf
    return Built(objective, loader, schedule.steps, clip, volumes)


def _network_maker(settings: Settings, seed: int) -> Any:
    """Build the backbone and return what joins it with a head of any number of classes."""
    backbone = starting_backbone(settings.backbone, settings.weights, [settings.crop_size], seed)

    def network_of(classes: int) -> DenseNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return DenseNetwork(backbone, _head(backbone, classes, settings.head))

    return network_of


def _head(backbone: Any, classes: int, kind: Head) -> nn.Module:
    if backbone.kind == "pyramid":
        head = FinestMapHead if kind == "finest" else LinearHead
        return head(backbone.feature_channels, classes)
    width, patch = backbone.feature_channels[0], backbone.feature_strides[0]
    return LightDecoder(width, classes, patch, backbone.input_channels, layers=len(backbone.feature_channels))
