"""LoRA (Hu et al. 2021) through peft: low-rank updates of named layers, and the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.network import DenseNetwork


class LoRA:
    """Low-rank updates go into the layers the backbone names, and nowhere else; the head trains fully.

    Args:
        rank: of each update.
        alpha: the update is scaled by ``alpha / rank``.
    """

    name = "lora"
    about = "low-rank updates of the backbone and a new head; small file, for pretrained weights"
    learning_rate = 2e-3
    linear_head = False
    frozen_backbone = False
    magnitudes = False

    def __init__(self, rank: int = 8, alpha: int = 16) -> None:
        self.rank, self.alpha = rank, alpha

    def apply(self, network: DenseNetwork) -> None:
        """Inject the low-rank layers into the backbone.

        Raises:
            RuntimeError: peft adapted other layers than the backbone named.
        """
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        targets = self.choose(network.backbone.lora_targets())
        inject_lora(network.backbone, targets, rank=self.rank, alpha=self.alpha, magnitudes=self.magnitudes)

    def choose(self, targets: list[str]) -> list[str]:
        """Those of the layers the backbone names, in order, that get an update: all of them."""
        return targets


def inject_lora(
    backbone: nn.Module, targets: Sequence[str], *, rank: int, alpha: float, magnitudes: bool = False
) -> None:
    """Put trainable low-rank updates into the submodules named, in place.

    Args:
        backbone: to change.
        targets: full names of Linear and Conv3d layers.
        rank, alpha: of the updates, see :class:`LoRA`.
        magnitudes: whether the lengths of the weight vectors train too (DoRA).

    Raises:
        RuntimeError: peft adapted other layers.
    """
    from fm3d_core.torchvision_guard import ensure_torchvision_importable

    ensure_torchvision_importable()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=only_these(targets), bias="none", use_dora=magnitudes)
    inject_adapter_in_model(config, backbone)
    adapted = [name for name, module in backbone.named_modules() if isinstance(module, LoraLayer)]
    if sorted(adapted) != sorted(targets):
        raise RuntimeError(f"LoRA went into {sorted(set(adapted) ^ set(targets))} contrary to the backbone's list")


def only_these(names: Sequence[str]) -> str:
    """The regular expression of full names: peft matches a list by name ending, which leaves room for accidents."""
    return "(" + "|".join(name.replace(".", r"\.") for name in names) + ")"
