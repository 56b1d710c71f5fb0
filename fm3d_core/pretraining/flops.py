"""Floating point operations of a self-distillation step by formula, for the share of the hardware's peak it uses.

Only matrix products count, two operations per multiplication and addition: a linear layer of n rows takes 2 n in out,
attention over N tokens 4 N^2 C per image (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, PaLM, appendix B).
Backward takes twice the forward pass, except for the patch embedding, whose input needs no gradient. What is computed
twice (activation checkpointing, attention's backward) counts once; what stochastic depth leaves out does not count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fm3d_core.models.vit import VisionTransformer3D
    from fm3d_core.pretraining.crops import CropSettings
    from fm3d_core.pretraining.loading import ViewSettings
    from fm3d_core.pretraining.masking import MaskSettings
    from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillationSettings


def step_flops(
    backbone: VisionTransformer3D,
    settings: SelfDistillationSettings,
    views: ViewSettings,
    masks: MaskSettings,
    batch_size: int = 1,
) -> float:
    """Operations per sample: student forward and backward, teacher forward, heads and prototypes of both.

    Args:
        backbone: the student's.
        settings: heads and losses; Gram anchoring counts as if it were on from the first step.
        views: numbers and sizes of the crops.
        masks: share of the patches that are hidden, on average.
        batch_size: per process; stochastic depth keeps whole images, so its saving depends on it.
    """
    first, others = views.global_crops, views.local_crops
    student, drop = 0.0, float(backbone.config["drop_path"])
    for crops in (first, others) if settings.dino_weight else (first,):
        embedding, blocks = vit_forward_flops(backbone, crops.size)
        student += crops.number * (2 * embedding + 3 * blocks * _kept(crops.number * batch_size, drop))
    taught = first.number * sum(vit_forward_flops(backbone, first.size))
    teacher = taught * (2 if settings.gram is not None else 1)
    width, patches = backbone.width, first.number * math.prod(_grid(backbone, first))
    hidden = patches * masks.probability * sum(masks.ratio) / 2
    if settings.dino_weight:
        one = head_forward_flops(width, settings.head)
        student += 3 * one * (first.number + others.number)
        teacher += one * first.number
    if settings.ibot_weight:
        one = head_forward_flops(width, settings.ibot_head or settings.head)
        student += 3 * one * hidden
        teacher += one * hidden
    if settings.gram is not None:
        per_crop = patches / first.number
        gram = first.number * 2 * per_crop**2 * width
        student += 3 * gram
        teacher += gram
    return student + teacher


def vit_forward_flops(backbone: VisionTransformer3D, size: tuple[int, int, int]) -> tuple[float, float]:
    """Operations of a forward pass of one image: of the patch embedding, and of all blocks."""
    config: Mapping[str, Any] = backbone.config
    width, patches = backbone.width, math.prod(s // p for s, p in zip(size, backbone.patch_size, strict=True))
    tokens = patches + backbone.leading_tokens
    embedding = 2.0 * patches * math.prod(backbone.patch_size) * backbone.input_channels * width
    hidden = int(width * config["mlp_ratio"])
    weights = 4 * width * width + 2 * width * hidden  # qkv and proj; two layers of the feed-forward
    if config["feed_forward"] == "swiglu":
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        weights = 4 * width * width + 3 * width * hidden
    attention = 4.0 * tokens * tokens * width  # likenesses, and mixing by them
    return embedding, len(backbone.blocks) * (2.0 * tokens * weights + attention)


def head_forward_flops(width: int, head: HeadSettings) -> float:
    """Operations of a head's forward pass of one token, its scores over all prototypes included."""
    widths = [width, *[head.hidden] * (head.layers - 1), head.bottleneck, head.prototypes]
    return 2.0 * sum(before * after for before, after in itertools.pairwise(widths))


def _kept(images: int, drop: float) -> float:
    """Share of a batch of crops of one size that each branch works on."""
    from fm3d_core.models.layers import kept_images

    return kept_images([(images, 1)], drop)[0] / images if images else 1.0


def _grid(backbone: VisionTransformer3D, crops: CropSettings) -> list[int]:
    return [size // patch for size, patch in zip(crops.size, backbone.patch_size, strict=True)]
