"""iBOT: masked patches are trained to say what the teacher says of the unmasked patch. Zhou et al. 2022, equation 2."""

from __future__ import annotations

import torch

from fm3d_core.pretraining.losses.cross_entropy import prototype_cross_entropy
from fm3d_core.pretraining.losses.targets import CHUNK_ENTRIES, Prototypes, TeacherTargets


def ibot_loss(
    features: torch.Tensor,
    prototypes: torch.Tensor | Prototypes,
    targets: TeacherTargets,
    weights: torch.Tensor,
    images: int,
    *,
    temperature: float = 0.1,
    chunk_entries: int = CHUNK_ENTRIES,
) -> torch.Tensor:
    """Mean over images of the mean over their masked patches of the cross-entropy.

    Args:
        features: student's masked patch tokens after the head's bottleneck (M, d); M may be 0.
        prototypes: student's prototypes (K, d).
        targets: the teacher's distributions of the same M patches.
        weights: (M,), one over the number of masked patches of the patch's image.
        images: global crops, masked or not (2 B); an unmasked one counts with loss 0.
        temperature: of the student.
    """
    pairs = torch.arange(len(features), device=features.device)[:, None]
    return prototype_cross_entropy(
        features, prototypes, targets, pairs, weights / max(images, 1), temperature, chunk_entries=chunk_entries
    )
