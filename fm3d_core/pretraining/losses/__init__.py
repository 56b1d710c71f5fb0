"""Losses of self-distillation, one per file. Images are compared by how they are assigned to learned prototypes.

The teacher's assignment is balanced over prototypes (``sinkhorn``) or centred (``centering``); the student's is
trained towards it on class tokens (``dino``) and on masked patches (``ibot``); ``koleo`` spreads the class tokens;
``gram`` keeps the patches' likenesses among each other.
"""

from fm3d_core.pretraining.losses.centering import Center, CenteredTargets
from fm3d_core.pretraining.losses.cross_entropy import prototype_cross_entropy, soft_cross_entropy
from fm3d_core.pretraining.losses.dino import dino_loss, dino_losses, view_pairs
from fm3d_core.pretraining.losses.gram import GramSettings, gram_loss
from fm3d_core.pretraining.losses.ibot import ibot_loss
from fm3d_core.pretraining.losses.koleo import koleo_loss
from fm3d_core.pretraining.losses.sinkhorn import SinkhornTargets, sinkhorn_knopp
from fm3d_core.pretraining.losses.targets import DenseTargets, Prototypes, TeacherTargets

__all__ = [
    "Center",
    "CenteredTargets",
    "DenseTargets",
    "GramSettings",
    "Prototypes",
    "SinkhornTargets",
    "TeacherTargets",
    "dino_loss",
    "dino_losses",
    "gram_loss",
    "ibot_loss",
    "koleo_loss",
    "prototype_cross_entropy",
    "sinkhorn_knopp",
    "soft_cross_entropy",
    "view_pairs",
]
