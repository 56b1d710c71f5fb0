"""Self-distillation as an objective of the engine: 3DINO's settings, its networks, its crops from a store."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fm3d_core.errors import SettingsError
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.models.zoo import check_preset, presets
from fm3d_core.pretraining.flops import step_flops
from fm3d_core.pretraining.initial_weights import InitialWeights, load_initial_weights
from fm3d_core.pretraining.loading import NamedBatch, ViewSettings, crop_loader
from fm3d_core.pretraining.masking import MaskSettings
from fm3d_core.pretraining.objective import Built, Objective, Place
from fm3d_core.pretraining.parameter_groups import parameter_groups, set_step_values
from fm3d_core.pretraining.schedules import ScheduleSettings, StepValues
from fm3d_core.pretraining.self_distillation import SelfDistillation, SelfDistillationSettings
from fm3d_core.volumes.crop_store import CropStore

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class BackboneSettings:
    """The vision transformer.

    Attributes:
        preset: a name of the zoo.
        options: of :class:`VisionTransformer3D`, in place of the preset's: drop_path, image_size, register_tokens, ...

    Raises:
        SettingsError: a preset that is no ViT, an unknown option, or options that make no ViT for one channel.
    """

    preset: str = "vit_large"
    options: dict[str, Any] = field(default_factory=lambda: {"drop_path": 0.3})

    def __post_init__(self) -> None:
        check_preset(self.preset)
        if presets()[self.preset]["class"] != "VisionTransformer3D":
            vits = [name for name, preset in presets().items() if preset["class"] == "VisionTransformer3D"]
            raise SettingsError(
                f"self-distillation of '{self.preset}' is not possible: it has no patch tokens",
                remedy=f"Choose one of: {', '.join(vits)}",
            )
        known = list(inspect.signature(VisionTransformer3D).parameters)
        for name in self.options:
            if name not in known:
                raise SettingsError(f"backbone.options.{name} is not known", remedy=f"Known: {', '.join(known)}")
        if self.config.get("input_channels", 1) != 1:
            raise SettingsError(
                f"backbone.options.input_channels is {self.config['input_channels']}, the volumes of a store have one",
                remedy="Leave it out; several channels are folded when the weights are used",
            )
        wavelengths = self.config.get("rotary_wavelengths")
        try:
            if any(self.config.get(name, 1) < 1 for name in ("image_size", "width", "depth", "heads")):
                raise ValueError("a size is below 1")
            if wavelengths is not None and not (len(wavelengths) == 2 and 0 < wavelengths[0] < wavelengths[1]):
                raise ValueError("rotary_wavelengths are not two rising lengths in mm")
            with torch.device("meta"):  # without memory
                VisionTransformer3D(**self.config)
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(f"backbone.options make no ViT: {reason}", remedy="Correct them") from error

    @property
    def config(self) -> dict[str, Any]:
        """The preset's options and those in their place."""
        return {**presets()[self.preset]["config"], **self.options}

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Edges of a patch in voxels."""
        edge = self.config.get("patch_size", inspect.signature(VisionTransformer3D).parameters["patch_size"].default)
        x, y, z = (edge,) * 3 if isinstance(edge, int) else edge
        return x, y, z

    def build(self) -> VisionTransformer3D:
        """With random weights of torch's current seed."""
        return VisionTransformer3D(**self.config)


@dataclass(frozen=True)
class Settings:
    """Everything below ``settings:`` for self-distillation; the defaults are 3DINO's ViT-L.

    Attributes:
        backbone: of student and teacher.
        initial: weights of an earlier run to go on from, as the high-resolution stage does.
        step: heads, losses, centering.
        schedule: learning rate, weight decay, teacher; its ``batch`` must be the run's.
        views: the crops and their changes.
        masks: how much is hidden.
        crop_dtype: in which crops travel to the device (3DINO: float16).
        layer_decay: factor on the learning rate per layer; patch_embed_factor: further one on the patch embedding's.
        gradient_clip: largest gradient norm of the backbone and of each head.

    Raises:
        SettingsError: crops that are not made of whole patches, fewer than two global ones, or an impossible number.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    initial: InitialWeights | None = None
    step: SelfDistillationSettings = field(default_factory=SelfDistillationSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    crop_dtype: Literal["float16", "float32"] = "float16"
    layer_decay: float = 0.9
    patch_embed_factor: float = 0.2
    gradient_clip: float = 3.0

    def __post_init__(self) -> None:
        patch = self.backbone.patch_size
        for name, crops in (("global_crops", self.views.global_crops), ("local_crops", self.views.local_crops)):
            if crops.number and any(size % edge for size, edge in zip(crops.size, patch, strict=True)):
                raise SettingsError(
                    f"views.{name}.size {list(crops.size)} is not made of whole patches of {list(patch)} voxels",
                    remedy="Choose multiples of the patch",
                )
        if self.views.global_crops.number < 2:
            raise SettingsError(
                f"views.global_crops.number is {self.views.global_crops.number}: nothing to compare a global crop with",
                remedy="Choose 2, as 3DINO",
            )
        for name in ("layer_decay", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}", remedy="Give a number above 0")
        if self.patch_embed_factor < 0:
            raise SettingsError(f"patch_embed_factor is {self.patch_embed_factor}", remedy="Give 0 or more")


class SelfDistillationObjective(Objective):
    """Student, teacher and their schedules.

    Args:
        settings: of the run.
        batch_size: of one process and round, for the count of operations.
    """

    def __init__(self, settings: Settings, batch_size: int = 1) -> None:
        super().__init__()
        self.settings, self.batch_size = settings, batch_size
        self.model = SelfDistillation(settings.backbone.build(), settings.step)
        self._freeze_idle_heads()
        if settings.initial is not None:
            load_initial_weights(settings.initial, self.model)
        self._values = settings.schedule.at(0)

    def _freeze_idle_heads(self) -> None:
        """Heads of losses that are switched off take no gradient; DDP would wait for it."""
        step, student = self.settings.step, self.model.student
        if not step.dino_weight and not (step.ibot_weight and student.ibot_head is None):
            student.dino_head.requires_grad_(False)
        if not step.ibot_weight and student.ibot_head is not None:
            student.ibot_head.requires_grad_(False)

    def forward(self, batch: NamedBatch) -> dict[str, torch.Tensor]:
        """The weighted terms of :class:`SelfDistillation` for this process's crops."""
        dtype = next(self.model.student.parameters()).dtype
        crops = batch.crops
        local = None if crops.local_crops is None else crops.local_crops.to(dtype)
        crops = replace(crops, global_crops=crops.global_crops.to(dtype), local_crops=local)
        return self.model(crops, self._values.teacher_temperature)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's, with layer-wise learning rates."""
        student = self.model.student
        groups = parameter_groups(
            student.named_parameters(),
            len(student.backbone.blocks),
            layer_decay=self.settings.layer_decay,
            patch_embed_factor=self.settings.patch_embed_factor,
        )
        set_step_values(groups, self._values)
        return groups

    def before_step(self, step: int, groups: list[dict[str, Any]]) -> dict[str, float]:
        """Learning rates, weight decay, teacher's temperature and momentum of ``step``; Gram anchoring begins."""
        self.model.before_step(step)
        self._values = values = self.settings.schedule.at(step)
        set_step_values(groups, values)
        return {
            "learning_rate": values.learning_rate,
            "weight_decay": values.weight_decay,
            "teacher_momentum": values.teacher_momentum,
            "teacher_temperature": values.teacher_temperature,
        }

    def clipped_modules(self) -> Mapping[str, nn.Module]:
        """Backbone and heads of the student, each on its own."""
        return dict(self.model.student.named_children())

    def after_step(self, step: int) -> None:
        """The teacher follows."""
        self.model.update_teacher(self.values.teacher_momentum)

    def pretrained(self) -> nn.Module:
        """The teacher's backbone."""
        return self.model.teacher.backbone

    def also_exported(self) -> Mapping[str, nn.Module]:
        """The teacher with its heads, for a further stage."""
        return {"teacher": self.model.teacher}

    @property
    def values(self) -> StepValues:
        """The schedules' values of the current step."""
        return self._values

    def flops_per_sample(self) -> float:
        """By formula: see :mod:`fm3d_core.pretraining.flops`."""
        settings, backbone = self.settings, self.model.student.backbone
        return step_flops(backbone, settings.step, settings.views, settings.masks, self.batch_size)


def build(settings: Settings, data: Path | None, place: Place) -> Built:
    """The objective and the crops of a store.

    Raises:
        SettingsError: no store given, or a learning rate meant for another batch size.
        CaseError, VolumeError: a store that cannot be used.
        WeightsError: initial weights that do not fit.
    """
    if data is None:
        raise SettingsError(
            "self-distillation needs volumes", remedy="Give --data STORE, a folder made by fm3d data cache"
        )
    if settings.schedule.batch != place.step_batch:
        raise SettingsError(
            f"settings.schedule.batch is {settings.schedule.batch}, run.batch_size {place.step_batch}; the learning "
            "rate follows the former",
            remedy=f"Add --set settings.schedule.batch={place.step_batch}, or give both the same number",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(place.seed)
        objective = SelfDistillationObjective(settings, place.batch_size)
    store = CropStore(data)
    loader = crop_loader(
        store,
        settings.views,
        objective.model.student.backbone.patch_size,
        place,
        masks=settings.masks,
        dtype=_DTYPES[settings.crop_dtype],
    )
    return Built(objective.train(), loader, settings.schedule.steps, settings.gradient_clip, len(store))
