"""Adapters for convolutional networks: a 1x1x1 convolution beside every 3x3x3 one (Rebuffi et al. 2018, parallel)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.base import train_only
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class CNNAdapter:
    """The 1x1x1 convolutions, zero at the start, and the head train; 1/27 of the weights they stand beside.

    FSEFT's "AdapterCNN" has them in the encoder only, and random at the start.
    """

    name = "cnn_adapter"
    about = "a 1x1x1 convolution beside every 3x3x3 one and a new head; small file, for pretrained convolutions"
    learning_rate = 2e-3
    linear_head = False
    frozen_backbone = False

    def apply(self, network: DenseNetwork) -> None:
        """Put the convolutions into the backbone.

        Raises:
            SettingsError: the backbone has no 3x3x3 convolutions.
        """
        from torch import nn

        from fm3d_core.models.backbone import cubic_convolutions
        from fm3d_core.models.bottlenecks import Parallel

        backbone = network.backbone
        names = cubic_convolutions(backbone)
        if not names:
            raise SettingsError(
                f"method '{self.name}' needs 3x3x3 convolutions, which this backbone has not",
                remedy="Choose method adaptformer or lora",
            )
        added: list[nn.Parameter] = []
        for name in names:
            layer = backbone.get_submodule(name)
            beside = nn.Conv3d(layer.in_channels, layer.out_channels, 1, stride=layer.stride, bias=False)
            nn.init.zeros_(beside.weight)
            backbone.set_submodule(name, Parallel(layer, beside))
            added.extend(beside.parameters())
        train_only(network, added)
