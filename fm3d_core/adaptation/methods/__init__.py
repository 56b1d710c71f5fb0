"""Finetuning methods by name: each says what trains and with which learning rate."""

from __future__ import annotations

from fm3d_core.adaptation.methods.adaptformer import AdaptFormer
from fm3d_core.adaptation.methods.affine import AffineNorm
from fm3d_core.adaptation.methods.arena import ARENA
from fm3d_core.adaptation.methods.base import Method, optimiser_of_method
from fm3d_core.adaptation.methods.bias import Bias
from fm3d_core.adaptation.methods.cnn_adapter import CNNAdapter
from fm3d_core.adaptation.methods.compacter import Compacter
from fm3d_core.adaptation.methods.dora import DoRA
from fm3d_core.adaptation.methods.feature_adapter import BLACK_BOX_ADAPTER, SPATIAL_ADAPTER
from fm3d_core.adaptation.methods.full import Full
from fm3d_core.adaptation.methods.late_lora import LateLoRA
from fm3d_core.adaptation.methods.linear_probe import LinearProbe
from fm3d_core.adaptation.methods.lora import LoRA
from fm3d_core.adaptation.methods.no_training import NoTraining
from fm3d_core.adaptation.methods.parts import PART_CHOICES, PartChoice, with_parts
from fm3d_core.adaptation.methods.query_value_lora import QueryValueLoRA
from fm3d_core.adaptation.methods.ranks import with_rank
from fm3d_core.adaptation.methods.scratch import Scratch
from fm3d_core.adaptation.methods.vera import VeRA
from fm3d_core.errors import SettingsError

_ALL: tuple[Method, ...] = (
    Full(),
    LoRA(),
    LinearProbe(),
    Bias(),
    AffineNorm(),
    BLACK_BOX_ADAPTER,
    SPATIAL_ADAPTER,
    AdaptFormer(),
    CNNAdapter(),
    DoRA(),
    VeRA(),
    LateLoRA(),
    QueryValueLoRA(),
    ARENA(),
    Compacter(),
    Scratch(),
    NoTraining(),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def check_method(
    name: str,
    decoder: PartChoice = "auto",
    bottleneck: PartChoice = "auto",
    rank: int | None = None,
    alpha: float | None = None,
) -> Method:
    """The method of this name.

    Args:
        name: a key of :data:`METHODS`.
        decoder, bottleneck: what becomes of these parts of the backbone, see
            :class:`fm3d_core.adaptation.methods.parts.WithParts`.
        rank, alpha: of its low-rank updates; None: its own.

    Raises:
        SettingsError: there is none, or it has no rank or alpha.
    """
    if name not in METHODS:
        raise SettingsError(f"unknown method '{name}'", remedy=f"Choose one of: {', '.join(METHODS)}")
    return with_parts(with_rank(METHODS[name], rank, alpha), decoder, bottleneck)


__all__ = [
    "METHODS",
    "PART_CHOICES",
    "Full",
    "LinearProbe",
    "LoRA",
    "Method",
    "NoTraining",
    "PartChoice",
    "Scratch",
    "check_method",
    "optimiser_of_method",
]
