"""What a published recipe fixes of a training besides method, budget and learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fm3d_core.errors import SettingsError

Decay = Literal["polynomial", "cosine"]
FEW_SHOT = "few_shot"  # the augmentation of fm3d_core.adaptation.augmentation


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a training, and what else the optimiser is told.

    Attributes:
        warm_up: steps over which the rate rises in a straight line; None: 3 % of the budget, from a twentieth on.
        decay: to 0 afterwards: polynomial with power 0.9 over the whole budget (nnU-Net, Isensee et al. 2021), or a
            cosine over the steps after the warm-up (Loshchilov and Hutter 2017).
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient (nnU-Net: 12); None: none.

    Raises:
        SettingsError: an impossible value.
    """

    warm_up: int | None = None
    decay: Decay = "polynomial"
    weight_decay: float = 1e-4
    gradient_clip: float | None = 12.0

    def __post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise SettingsError(f"decay is {self.decay}", remedy=f"Choose one of: {', '.join(get_args(Decay))}")
        if (self.warm_up is not None and self.warm_up < 0) or self.weight_decay < 0:
            raise SettingsError(
                f"warm_up is {self.warm_up}, weight_decay {self.weight_decay}", remedy="Give 0 or more of both"
            )

    def factor(self, step: int, steps: int | None, spent: float) -> float:
        """What the learning rate is multiplied by.

        Args:
            step: done so far.
            steps: of the whole training; None if it has a time instead.
            spent: share of the budget that is used.
        """
        if self.warm_up is None or steps is None:
            rising, after = min(0.05 + spent / WARM_UP_SHARE, 1.0), spent
        else:
            rising = min((step + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
            after = max(step - self.warm_up, 0) / max(steps - self.warm_up, 1)
        if self.decay == "cosine":
            return rising * 0.5 * (1 + math.cos(math.pi * min(after, 1.0)))
        return rising * float((1 - spent) ** 0.9)


WARM_UP_SHARE = 0.03  # of the budget over which the learning rate rises where no number of steps is given


@dataclass(frozen=True)
class CropSampling:
    """Where crops for voxels are cut.

    Attributes:
        foreground: share of the crops centred on a voxel of a structure; the others are centred anywhere.
        structures_alike: whether each structure is centred on equally often, or each voxel of any.
        crops_per_volume: crops of one volume in a step.

    Raises:
        SettingsError: an impossible value.
    """

    foreground: float = 2 / 3
    structures_alike: bool = True
    crops_per_volume: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1 or self.crops_per_volume < 1:
            raise SettingsError(
                f"foreground is {self.foreground}, crops_per_volume {self.crops_per_volume}",
                remedy="Give a share from 0 to 1, and 1 or more",
            )


@dataclass(frozen=True)
class TrainingPlan:
    """How to train; the defaults are FM3D's own for a handful of labelled volumes.

    Attributes:
        schedule: of the learning rate.
        sampling: of crops for voxels.
        crop: size of a crop in voxels; None: planned from the cases.
        augmentation: a name of augmentations.yaml, few_shot (FM3D's own), or none.
    """

    schedule: Schedule = Schedule()
    sampling: CropSampling = CropSampling()
    crop: tuple[int, int, int] | None = None
    augmentation: str = FEW_SHOT
