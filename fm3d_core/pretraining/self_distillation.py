"""One step of 3DINO's self-distillation: a student learns from crops what its own moving average says of others.

Caron et al. 2021 (DINO), Zhou et al. 2022 (iBOT), Oquab et al. 2023 (DINOv2, section 4), Xu et al. 2025 (3DINO);
optionally Gram anchoring of Siméoni et al. 2025 (DINOv3, section 4).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from fm3d_core.errors import SettingsError
from fm3d_core.models.dino_head import DINOHead
from fm3d_core.models.vit import VisionTransformer3D, ViTFeatures
from fm3d_core.pretraining.losses import (
    Center,
    CenteredTargets,
    GramSettings,
    Prototypes,
    SinkhornTargets,
    TeacherTargets,
    dino_losses,
    gram_loss,
    ibot_loss,
    koleo_loss,
    view_pairs,
)
from fm3d_core.pretraining.losses.targets import CHUNK_ENTRIES
from fm3d_core.pretraining.masking import CropBatch


@dataclass(frozen=True)
class HeadSettings:
    """Size of a projection head; the defaults are 3DINO's.

    Raises:
        SettingsError: a size below 1.
    """

    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3

    def __post_init__(self) -> None:
        if min(self.prototypes, self.hidden, self.bottleneck, self.layers) < 1:
            raise SettingsError(f"impossible head {self}", remedy="All of its numbers are 1 or more")

    def build(self, width: int) -> DINOHead:
        """A fresh head for a backbone of this width."""
        return DINOHead(width, self.prototypes, self.hidden, self.bottleneck, self.layers)


@dataclass(frozen=True)
class SelfDistillationSettings:
    """What the step computes; the defaults are 3DINO's.

    Attributes:
        head: of the class tokens.
        ibot_head: of the masked patches; None shares the head of the class tokens.
        dino_weight, ibot_weight, koleo_weight: of the losses; 0 leaves a loss out.
        student_temperature: the teacher's follows a schedule.
        centering: how the teacher's assignment is kept from collapsing.
        sinkhorn_iterations: for "sinkhorn_knopp".
        center_momentum: for "softmax".
        koleo_across_ranks: look for the nearest neighbour in the batches of all processes.
        keep_teacher_scores: hold one copy of the teacher's scores (faster) instead of none (less memory).
        chunk_entries: entries of the largest temporary of the prototype losses.
        gram: anchors the patch features to an earlier teacher's; None (3DINO) does not.

    Raises:
        SettingsError: an unknown centering, a temperature that is not positive, or weights of which none counts.
    """

    head: HeadSettings = field(default_factory=HeadSettings)
    ibot_head: HeadSettings | None = field(default_factory=HeadSettings)
    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    student_temperature: float = 0.1
    centering: Literal["sinkhorn_knopp", "softmax"] = "sinkhorn_knopp"
    sinkhorn_iterations: int = 3
    center_momentum: float = 0.9
    koleo_across_ranks: bool = False
    keep_teacher_scores: bool = True
    chunk_entries: int = CHUNK_ENTRIES
    gram: GramSettings | None = None

    def __post_init__(self) -> None:
        if self.centering not in ("sinkhorn_knopp", "softmax"):
            raise SettingsError(f"unknown centering '{self.centering}'", remedy="Choose sinkhorn_knopp or softmax")
        if self.student_temperature <= 0:
            raise SettingsError(
                f"student temperature {self.student_temperature} is not positive", remedy="3DINO has 0.1"
            )
        weights = (self.dino_weight, self.ibot_weight, self.koleo_weight)
        if min(weights) < 0 or max(self.dino_weight, self.ibot_weight) == 0:
            raise SettingsError(
                f"dino_weight, ibot_weight and koleo_weight are {weights}",
                remedy="None below 0, one of the first two above",
            )
        if min(self.sinkhorn_iterations, self.chunk_entries) < 1:
            raise SettingsError("sinkhorn_iterations or chunk_entries is below 1", remedy="3DINO has 3 iterations")


class DistillationNetworks(nn.Module):
    """Backbone and heads of the student, or of the teacher; keys as in the public 3DINO weights."""

    def __init__(self, backbone: VisionTransformer3D, head: HeadSettings, ibot_head: HeadSettings | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.dino_head = head.build(backbone.width)
        self.ibot_head = None if ibot_head is None else ibot_head.build(backbone.width)

    @property
    def patch_head(self) -> DINOHead:
        """The head of the masked patches."""
        return self.dino_head if self.ibot_head is None else self.ibot_head


class SelfDistillation(nn.Module):
    """Student and teacher; calling it gives the losses of a batch.

    Wrap the whole in DDP or FSDP; in distributed training the losses are those of the process's own crops, with the
    teacher's assignment balanced over all processes, so that the mean over processes is the loss of the union batch.

    Args:
        backbone: the student's, with its stochastic depth; the teacher starts as its copy and never drops.
        settings: heads, weights, centering.
    """

    def __init__(self, backbone: VisionTransformer3D, settings: SelfDistillationSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or SelfDistillationSettings()
        self.student = DistillationNetworks(backbone, settings.head, settings.ibot_head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.dino_center: Center | None = None
        self.ibot_center: Center | None = None
        if settings.centering == "softmax":
            self.dino_center = Center(settings.head.prototypes, settings.center_momentum)
            self.ibot_center = Center((settings.ibot_head or settings.head).prototypes, settings.center_momentum)
        # there from the beginning, so that checkpoints of all steps have the same keys
        self.gram_teacher = None if settings.gram is None else copy.deepcopy(self.teacher.backbone)
        self._anchored = False

    def train(self, mode: bool = True) -> SelfDistillation:
        """Training mode for the student only: the teacher knows no stochastic depth."""
        super().train(mode)
        self.teacher.eval()
        if self.gram_teacher is not None:
            self.gram_teacher.eval()
        return self

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Tell which step comes (from 0): Gram anchoring begins, and takes the teacher of the day, at certain steps.

        What it does depends on the step and the weights alone, so a resumed run does the same. Without Gram anchoring
        it does nothing.
        """
        gram = self.settings.gram
        if gram is None or self.gram_teacher is None:
            return
        self._anchored = gram.active(step)
        if gram.refreshes(step):
            for mine, theirs in zip(self.gram_teacher.parameters(), self.teacher.backbone.parameters(), strict=True):
                mine.copy_(theirs)

    def forward(self, batch: CropBatch, teacher_temperature: float) -> dict[str, torch.Tensor]:
        """The terms of the loss, weighted; train on their sum.

        ``dino_local`` and ``dino_global`` share one mean over all pairs of a student's and a teacher's view that are
        not the same view; ``ibot`` is the mean over global crops; ``koleo`` the sum over global views; ``gram`` the
        mean over global crops, in steps with Gram anchoring.

        Args:
            batch: global crops (masked for the student only), local crops, masks.
            teacher_temperature: of this step.
        """
        settings = self.settings
        with torch.no_grad():
            taught = self.teacher.backbone.forward_features(batch.global_crops, spacing=batch.global_spacing)
        seen, local = self._student_features(batch)
        views = len(batch.global_crops) // batch.batch
        terms: dict[str, torch.Tensor] = {}
        if settings.dino_weight:
            terms |= self._dino_terms(batch, views, taught, seen, local, teacher_temperature)
        if settings.ibot_weight:
            terms["ibot"] = settings.ibot_weight * self._ibot(batch, taught, seen, teacher_temperature)
        if settings.koleo_weight:
            spread = [
                koleo_loss(view, across_ranks=settings.koleo_across_ranks) for view in seen.cls_token.chunk(views)
            ]
            terms["koleo"] = settings.koleo_weight * torch.stack(spread).sum()
        if settings.gram is not None and self.gram_teacher is not None and self._anchored:
            with torch.no_grad():
                anchor = self.gram_teacher.forward_features(batch.global_crops, spacing=batch.global_spacing)
            terms["gram"] = settings.gram.weight * gram_loss(seen.patch_tokens, anchor.patch_tokens)
        return terms

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: teacher = momentum * teacher + (1 - momentum) * student."""
        mine: list[torch.Tensor] = list(self.teacher.parameters())
        theirs: list[torch.Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - momentum)

    def clip_gradients(self, max_norm: float = 3.0) -> dict[str, torch.Tensor]:
        """Clip the gradients of backbone and heads, each on its own; their norms before."""
        return {
            name: nn.utils.clip_grad_norm_(module.parameters(), max_norm)
            for name, module in self.student.named_children()
        }

    def _student_features(self, batch: CropBatch) -> tuple[ViTFeatures, ViTFeatures | None]:
        """Of the masked global crops and, where the loss needs them, of the local crops, in one pass."""
        backbone, hidden = self.student.backbone, batch.masks.hidden
        if batch.local_crops is None or not self.settings.dino_weight:
            (seen,) = backbone.forward_many([batch.global_crops], [hidden], spacings=[batch.global_spacing])
            return seen, None
        seen, local = backbone.forward_many(
            [batch.global_crops, batch.local_crops],
            [hidden, None],
            spacings=[batch.global_spacing, batch.local_spacing],
        )
        return seen, local

    def _dino_terms(
        self,
        batch: CropBatch,
        views: int,
        taught: ViTFeatures,
        seen: ViTFeatures,
        local: ViTFeatures | None,
        temperature: float,
    ) -> dict[str, torch.Tensor]:
        head, device = self.student.dino_head, batch.global_crops.device
        targets = self._targets(self.teacher.dino_head, taught.cls_token, temperature, self.dino_center)
        prototypes, size = _prototypes(head), batch.batch
        student_views = {
            "dino_global": (seen.cls_token, view_pairs(views, views, size, same_views=True, device=device))
        }
        if local is not None:
            count = len(local.cls_token) // size
            student_views["dino_local"] = (
                local.cls_token,
                view_pairs(count, views, size, same_views=False, device=device),
            )
        total = sum(pairs.numel() for _, pairs in student_views.values()) / size
        losses = dino_losses(
            [(head.embed(tokens), pairs) for tokens, pairs in student_views.values()],
            prototypes,
            targets,
            size,
            temperature=self.settings.student_temperature,
            chunk_entries=self.settings.chunk_entries,
        )
        return dict(zip(student_views, self.settings.dino_weight / total * losses, strict=True))

    def _ibot(self, batch: CropBatch, taught: ViTFeatures, seen: ViTFeatures, temperature: float) -> torch.Tensor:
        masks, head = batch.masks, self.student.patch_head
        hidden = taught.patch_tokens.flatten(0, 1)[masks.indices]
        targets = self._targets(self.teacher.patch_head, hidden, temperature, self.ibot_center)
        return ibot_loss(
            head.embed(seen.patch_tokens.flatten(0, 1)[masks.indices]),
            _prototypes(head),
            targets,
            masks.weights,
            len(batch.global_crops),
            temperature=self.settings.student_temperature,
            chunk_entries=self.settings.chunk_entries,
        )

    @torch.no_grad()
    def _targets(
        self, head: DINOHead, tokens: torch.Tensor, temperature: float, center: Center | None
    ) -> TeacherTargets:
        features, prototypes = head.embed(tokens), _prototypes(head)
        if center is None:
            return SinkhornTargets(
                features,
                prototypes,
                temperature,
                self.settings.sinkhorn_iterations,
                keep_scores=self.settings.keep_teacher_scores,
            )
        targets = CenteredTargets(features, prototypes, center.value, temperature)
        if self.training:  # the new centre counts from the next step on
            center.update(features, prototypes)
        return targets


def _prototypes(head: DINOHead) -> Prototypes:
    return Prototypes(head.last_layer.weight_v, head.last_layer.weight_g)
