"""Bias tuning (BitFit, Ben Zaken et al. 2022): the biases of the backbone train, no weight does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.adaptation.methods.base import train_only
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class Bias:
    """Every bias of the backbone trains, and the head.

    Included are the biases of linear layers, of convolutions and of norms, and Swin's tables of relative position
    biases: FSEFT's "Bias" selects those of attention and feed-forward by name, and the tables are 94 % of what it
    trains. A convolution's bias before an instance norm is included too, though the norm cancels it.
    """

    name = "bias"
    about = "the biases of the backbone and a new head; small file, for pretrained weights"
    learning_rate = 1e-2
    linear_head = False
    frozen_backbone = False

    def apply(self, network: DenseNetwork) -> None:
        """Make the biases and the head trainable.

        Raises:
            SettingsError: the backbone has no biases.
        """
        biases = [
            parameter
            for name, parameter in network.backbone.named_parameters()
            if name.split(".")[-1] in ("bias", "relative_position_bias_table")
        ]
        if not biases:
            raise SettingsError(
                f"method '{self.name}' trains biases, which this backbone has not", remedy="Choose method lora"
            )
        train_only(network, biases)
