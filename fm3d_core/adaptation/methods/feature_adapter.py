"""A residual adapter between the frozen backbone's features and the head (black-box tuning).

FSEFT (Silva-Rodriguez et al. 2023 and 2025): x + C2(ReLU(C1(x))) on the last features, C1 and C2 without bias, C2 zero
at the start. As the backbone is not touched, its features are computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.models.network import DenseNetwork


class FeatureAdapter:
    """The adapter on one of the backbone's maps and the head train.

    Args:
        name: of the method.
        about: one line for users.
        kernel_size: of both convolutions: 1 sees a voxel, 3 its neighbours too.
    """

    linear_head = True
    frozen_backbone = True

    def __init__(self, name: str, about: str, kernel_size: int) -> None:
        self.name, self.about, self.kernel_size = name, about, kernel_size
        self.learning_rate = 1e-2 if kernel_size == 1 else 2e-3

    def apply(self, network: DenseNetwork) -> None:
        """Freeze the backbone and put the adapter before the head.

        Raises:
            SettingsError: the head runs the backbone itself, so there are no features ahead of it.
        """
        from fm3d_core.models.heads import AdaptedHead

        if network.runs_backbone:
            raise SettingsError(
                f"method '{self.name}' works on finished features, but this head runs the backbone itself",
                remedy="Choose method lora, or head linear",
            )
        index = network.adapted_map
        network.head = AdaptedHead(network.head, network.map_channels[index], index, self.kernel_size)
        network.backbone.requires_grad_(False)
        network.head.requires_grad_(True)


BLACK_BOX_ADAPTER = FeatureAdapter(
    "black_box_adapter",
    "a small residual layer and a linear head on frozen features; seconds, tiny file",
    kernel_size=1,
)
SPATIAL_ADAPTER = FeatureAdapter(
    "spatial_adapter", "two residual 3x3x3 convolutions and a linear head on frozen features; small file", kernel_size=3
)
