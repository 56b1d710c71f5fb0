"""What the teacher says of the fixed crops: how sure it is, and how many prototypes it uses.

Caron et al. 2021 (DINO, section 5.3, figure 7): two collapses are possible. With one prototype for everything both
entropies are 0; with the flat distribution for everything both are log K. In both, class tokens tell nothing apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fm3d_core.pretraining.losses.targets import row_chunks
from fm3d_core.pretraining.monitors.fixed_crops import FixedCrops
from fm3d_core.pretraining.self_distillation import SelfDistillation

if TYPE_CHECKING:
    from fm3d_core.models.dino_head import DINOHead
    from fm3d_core.pretraining.objective import Objective

_PATCHES = 512  # patches that are looked at


@torch.no_grad()
def entropies(head: DINOHead, tokens: torch.Tensor, temperature: float) -> tuple[float, float]:
    """In nats: the mean entropy of the assignments of ``tokens`` (n, C), and the entropy of their mean.

    Of the plain softmax: balancing (Sinkhorn-Knopp) would hide a collapse.
    """
    parameter = next(head.parameters())
    total, mean = 0.0, torch.zeros(1)
    for part in row_chunks(len(tokens), len(head.last_layer.weight_v)):
        scores = head(tokens[part].to(parameter.device, parameter.dtype)).float()
        shares = torch.softmax(scores / temperature, dim=-1)
        total += float(torch.special.entr(shares).sum())
        mean = mean + shares.sum(dim=0).cpu()
    return total / len(tokens), float(torch.special.entr(mean / len(tokens)).sum())


class TeacherEntropy:
    """Entropies of the teacher's assignments, in nats and relative to log K.

    Figures, for class tokens and patches each: ``entropy_*`` (mean entropy), ``entropy_of_mean_*``, and both over
    log K as ``relative_entropy_*`` and ``relative_entropy_of_mean_*``.

    Args:
        crops: that it looks at.
        temperature: the same in all steps, so that figures can be compared (3DINO's teacher ends at 0.07).
    """

    def __init__(self, crops: FixedCrops, temperature: float = 0.07) -> None:
        self.crops, self.temperature = crops, temperature

    def __call__(self, objective: Objective, step: int, folder: Path) -> dict[str, float]:
        """The figures of this step; none for an objective without self-distillation."""
        model = next((module for module in objective.modules() if isinstance(module, SelfDistillation)), None)
        if model is None:
            return {}
        found = self.crops.features(objective.pretrained(), step)
        patches = found.patches.flatten(0, 1)
        patches = patches[:: -(-len(patches) // _PATCHES)]
        figures: dict[str, float] = {}
        looked = {"whole": (model.teacher.dino_head, found.whole), "patches": (model.teacher.patch_head, patches)}
        for name, (head, tokens) in looked.items():
            sure, used = entropies(head, tokens, self.temperature)
            most = math.log(len(head.last_layer.weight_v))
            figures[f"entropy_{name}"], figures[f"entropy_of_mean_{name}"] = sure, used
            figures[f"relative_entropy_{name}"], figures[f"relative_entropy_of_mean_{name}"] = sure / most, used / most
        return figures
