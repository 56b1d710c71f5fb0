"""Affine tuning of norms (Frankle et al. 2021; FSEFT's "Affine-LN"): scale and shift of every norm layer train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.base import train_only
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class AffineNorm:
    """Scale and shift of the backbone's layer, group, batch and instance norms train, and the head."""

    name = "affine_ln"
    about = "scale and shift of the backbone's norm layers and a new head; tiny file, for pretrained weights"
    learning_rate = 1e-2
    linear_head = False
    frozen_backbone = False

    def apply(self, network: DenseNetwork) -> None:
        """Make the norms' parameters and the head trainable.

        Raises:
            SettingsError: the backbone's norms have no parameters.
        """
        from torch import nn
        from torch.nn.modules.batchnorm import _NormBase

        norms = [
            module
            for module in network.backbone.modules()
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | _NormBase)
        ]
        parameters = [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
        if not parameters:
            raise SettingsError(
                f"method '{self.name}' trains scale and shift of norms, which this backbone's norms have not",
                remedy="Choose method bias or lora",
            )
        train_only(network, parameters)
