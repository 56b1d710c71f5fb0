"""Which learning rate and weight decay each parameter gets: smaller steps for the earlier layers.

Clark et al. 2020 (layer-wise decay), Bao et al. 2022 (BEiT); the factors of 3DINO are the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fm3d_core.pretraining.schedules import StepValues

if TYPE_CHECKING:
    from torch import nn

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_EMBEDDINGS = ("cls_token", "mask_token", "pos_embed", "register_tokens", "patch_embed")


@dataclass(frozen=True)
class Multipliers:
    """Factors of one parameter.

    Attributes:
        learning_rate_factor: on the step's learning rate.
        weight_decay_factor: on the step's weight decay.
        last_layer: whether it belongs to the prototypes, which stay frozen at the beginning.
    """

    learning_rate_factor: float
    weight_decay_factor: float
    last_layer: bool


def parameter_multipliers(
    name: str, depth: int, *, layer_decay: float = 0.9, patch_embed_factor: float = 0.2
) -> Multipliers:
    """Factors of the parameter ``name``, for example "backbone.blocks.3.attn.qkv.weight".

    The embeddings are layer 0, block i is layer i + 1, everything behind the blocks is layer ``depth`` + 1; a layer's
    learning rate is ``layer_decay`` to the power of its distance from the last. Biases, norms and LayerScale do not
    decay; the tokens and the position embedding do.

    Args:
        depth: number of blocks.
        layer_decay: per layer.
        patch_embed_factor: further factor on the patch embedding's learning rate.
    """
    block = _BLOCK.search(name)
    if block:
        layer = int(block[1]) + 1
    elif any(part in name for part in _EMBEDDINGS):
        layer = 0
    else:
        layer = depth + 1
    rate = layer_decay ** (depth + 1 - layer) * (patch_embed_factor if "patch_embed" in name else 1.0)
    undecayed = name.endswith(".bias") or "norm" in name or "gamma" in name
    return Multipliers(rate, 0.0 if undecayed else 1.0, "last_layer" in name)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    depth: int,
    *,
    layer_decay: float = 0.9,
    patch_embed_factor: float = 0.2,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, one per set of factors; parameters without gradient are left out.

    Each group has ``params``, ``names`` and its factors as plain numbers, so that an optimiser's state stays readable
    with ``weights_only``; :func:`set_step_values` fills in learning rate and weight decay at each step.
    """
    groups: dict[Multipliers, dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        factors = parameter_multipliers(name, depth, layer_decay=layer_decay, patch_embed_factor=patch_embed_factor)
        group = groups.setdefault(factors, {"params": [], "names": [], **asdict(factors)})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def set_step_values(groups: Iterable[dict[str, Any]], values: StepValues) -> None:
    """Give each group of an optimiser its learning rate and weight decay for this step."""
    for group in groups:
        rate = values.last_layer_learning_rate if group["last_layer"] else values.learning_rate
        group["lr"] = rate * group["learning_rate_factor"]
        group["weight_decay"] = values.weight_decay * group["weight_decay_factor"]


def set_learning_rate(groups: Iterable[dict[str, Any]], rate: float) -> dict[str, float]:
    """Give all groups of an optimiser the same learning rate, and return it as the value to log for this step."""
    for group in groups:
        group["lr"] = rate
    return {"learning_rate": rate}
