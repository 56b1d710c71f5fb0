"""What every backbone offers to heads, adapters and the server: features of a volume, in one of two shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import nn

Size = tuple[int, int, int]
PARTS = ("decoder", "bottleneck")  # bottleneck: what is between encoder and decoder


@runtime_checkable
class Backbone(Protocol):
    """A 3D network without its last layer.

    Attributes:
        kind: "tokens" (a ViT: every map has the patch stride) or "pyramid" (maps of several strides).
        input_channels: image channels expected.
        feature_channels: channels of each map of :meth:`features`, finest first.
        feature_strides: input voxels per map voxel along each axis, finest first.
        size_multiple: each spatial size of the input must be a multiple of this; the caller pads.
        config: what rebuilds the module; part of its identity.

    A backbone whose features depend on the voxel's size in mm (rotary positions) also has ``needs_spacing = True``, and
    its ``features`` takes ``spacing``: mm per voxel, (3,) for all images or (B, 3).
    """

    kind: Literal["tokens", "pyramid"]
    input_channels: int
    feature_channels: tuple[int, ...]
    feature_strides: tuple[Size, ...]
    size_multiple: Size
    config: dict[str, Any]

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of ``image`` (B, C, X, Y, Z), finest first, each (B, feature_channels[i], X/s, Y/s, Z/s)."""
        ...

    def lora_targets(self) -> list[str]:
        """Full names of the submodules that low-rank adapters go into; each is a Linear or Conv3d.

        A ViT's or an encoder's shallow layers come first, a decoder's last.
        """
        ...

    def parts(self) -> dict[str, list[str]]:
        """Full names of the submodules of each of :data:`PARTS`; none of a ViT, whose decoder is the head."""
        ...


def cubic_convolutions(module: nn.Module) -> list[str]:
    """Names of the 3x3x3 convolutions below ``module``: peft cannot adapt transposed ones, nor merge 1x1x1 ones."""
    from torch import nn

    return [
        name for name, part in module.named_modules() if isinstance(part, nn.Conv3d) and part.kernel_size == (3, 3, 3)
    ]
