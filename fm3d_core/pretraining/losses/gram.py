"""Gram anchoring: patches keep the likenesses among each other that an earlier teacher saw.

Siméoni et al. 2025 (DINOv3, arXiv 2508.10104, section 4): in long training class tokens go on improving while patch
features lose their locality. The loss holds only the patches' cosines among each other, so features may still turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from fm3d_core.errors import SettingsError


@dataclass(frozen=True)
class GramSettings:
    """When and how strongly patches are anchored.

    The paper starts late in its schedule (after 1,000,000 steps of 7B pretraining) and refreshes every 10,000 steps.

    Attributes:
        weight: of the loss.
        start: first step with the loss; the Gram teacher is then the teacher of that step.
        refresh: steps after which the Gram teacher becomes the teacher of the day again; 0 keeps the first.

    Raises:
        SettingsError: a negative number.
    """

    weight: float = 1.0
    start: int = 100_000
    refresh: int = 10_000

    def __post_init__(self) -> None:
        if min(self.weight, self.start, self.refresh) < 0:
            raise SettingsError(f"impossible Gram settings {self}", remedy="Weight and steps are 0 or more")

    def active(self, step: int) -> bool:
        """Whether the loss counts in ``step``."""
        return step >= self.start

    def refreshes(self, step: int) -> bool:
        """Whether the Gram teacher is taken from the teacher before ``step``."""
        after = step - self.start
        return after == 0 or (after > 0 and self.refresh > 0 and after % self.refresh == 0)


def gram_loss(student: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the Gram matrices of normalised patch features (section 4.2, equation 2).

    Mean over images and pairs of patches; the paper writes the squared Frobenius norm, its mean does not depend on
    the number of patches. Always in float32.

    Args:
        student: patch features (B, N, C).
        anchor: the Gram teacher's of the same patches (B, N, any width); without gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        mine, theirs = F.normalize(student.float(), dim=-1), F.normalize(anchor.detach().float(), dim=-1)
        return F.mse_loss(mine @ mine.transpose(1, 2), theirs @ theirs.transpose(1, 2))
