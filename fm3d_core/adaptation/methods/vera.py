"""VeRA (Kopiczko et al. 2024) through peft: two random projections that all layers share, and trained scalings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.lora import only_these
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork

PROJECTION_SEED = 0  # an adapter holds no projection, so this never changes


class VeRA:
    """``W x + b * B (d * A x)`` with A and B random, frozen and shared by all layers; d, b and the head train.

    The projections follow from :data:`PROJECTION_SEED` and are not in the file.

    Args:
        rank: rows of A and columns of B.
    """

    name = "vera"
    about = "trained scalings of shared random updates of linear layers and a new head; the smallest file of its kind"
    learning_rate = 1e-2
    linear_head = False
    frozen_backbone = False

    def __init__(self, rank: int = 64) -> None:
        self.rank = rank

    def apply(self, network: DenseNetwork) -> None:
        """Inject the layers into the backbone.

        Raises:
            SettingsError: what the backbone names for low-rank updates is not linear layers.
        """
        from torch import nn

        from fm3d_core.torchvision_guard import ensure_torchvision_importable

        network.requires_grad_(False)
        network.head.requires_grad_(True)
        backbone = network.backbone
        targets = [name for name in backbone.lora_targets() if isinstance(backbone.get_submodule(name), nn.Linear)]
        if not targets:
            raise SettingsError(
                f"method '{self.name}' needs linear layers, which this backbone has not", remedy="Choose method lora"
            )
        ensure_torchvision_importable()
        from peft import VeraConfig
        from peft.tuners.vera import VeraModel

        config = VeraConfig(
            r=self.rank,
            target_modules=only_these(targets),
            projection_prng_key=PROJECTION_SEED,
            bias="none",
        )
        # peft's inject_adapter_in_model refuses VeRA; its tuner changes the backbone, whose layers keep the projections
        VeraModel(backbone, config, "default")
