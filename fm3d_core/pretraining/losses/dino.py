"""DINO: the class token of each view is trained to say what the teacher says of the other views of the same image.

Caron et al. 2021 (equation 3), with local crops as in section 3.1; the factors of Oquab et al. 2023 (DINOv2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fm3d_core.pretraining.losses.cross_entropy import prototype_cross_entropies
from fm3d_core.pretraining.losses.targets import CHUNK_ENTRIES, Prototypes, TeacherTargets


def view_pairs(
    student_views: int, teacher_views: int, batch: int, *, same_views: bool, device: torch.device | None = None
) -> torch.Tensor:
    """Teacher rows that each student row is compared with; rows are ordered view by view, images within.

    Args:
        same_views: the student's views are the teacher's (global crops): a view is not compared with itself.

    Returns:
        (student_views * batch, teacher_views), or one column fewer when ``same_views``.

    Raises:
        ValueError: ``same_views`` with different numbers of views.
    """
    if same_views and student_views != teacher_views:
        raise ValueError(f"{student_views} student views are not the {teacher_views} teacher views")
    others = [[view for view in range(teacher_views) if not same_views or view != own] for own in range(student_views)]
    views = torch.tensor(others, dtype=torch.long, device=device)  # (student_views, t)
    images = torch.arange(batch, device=device)
    return (views[:, None] * batch + images[None, :, None]).flatten(0, 1)


def dino_loss(
    features: torch.Tensor,
    prototypes: torch.Tensor | Prototypes,
    targets: TeacherTargets,
    pairs: torch.Tensor,
    batch: int,
    *,
    temperature: float = 0.1,
    chunk_entries: int = CHUNK_ENTRIES,
) -> torch.Tensor:
    """Sum over pairs of views of the mean over images of the cross-entropy.

    Args:
        features: student's class tokens after the head's bottleneck (views * batch, d).
        prototypes: student's prototypes (K, d).
        targets: the teacher's distributions of its views.
        pairs: from :func:`view_pairs`.
        batch: images B.
        temperature: of the student.

    Returns:
        Scalar, the sum over all student-teacher pairs of views; divide it by the number of pairs for the mean.
    """
    return dino_losses(
        [(features, pairs)], prototypes, targets, batch, temperature=temperature, chunk_entries=chunk_entries
    )[0]


def dino_losses(
    kinds: Sequence[tuple[torch.Tensor, torch.Tensor]],
    prototypes: torch.Tensor | Prototypes,
    targets: TeacherTargets,
    batch: int,
    *,
    temperature: float = 0.1,
    chunk_entries: int = CHUNK_ENTRIES,
) -> torch.Tensor:
    """:func:`dino_loss` of several kinds of crops, each with its ``features`` and ``pairs``; (kinds,)."""
    columns = math.lcm(*(pairs.shape[1] for _, pairs in kinds))
    repeats = [columns // pairs.shape[1] for _, pairs in kinds]  # a row that counts twice, with half the weight
    weights = [
        torch.full((len(features),), 1 / max(batch * times, 1), device=features.device)
        for (features, _), times in zip(kinds, repeats, strict=True)
    ]
    return prototype_cross_entropies(
        torch.cat([features for features, _ in kinds]),
        prototypes,
        targets,
        torch.cat([pairs.repeat(1, times) for (_, pairs), times in zip(kinds, repeats, strict=True)]),
        torch.cat(weights),
        temperature,
        tuple(len(features) for features, _ in kinds),
        chunk_entries=chunk_entries,
    )
