"""Heads for voxels by name, on any backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError
from fm3d_core.tasks.task import check_head

if TYPE_CHECKING:
    from torch import nn

    from fm3d_core.models.backbone import Backbone

_UNETR_PATCH = (16, 16, 16)


def dense_head(backbone: Backbone, classes: int, head: str = "auto", *, linear: bool = False) -> nn.Module:
    """The head for a backbone.

    Args:
        backbone: whose maps it takes.
        classes: scores per voxel.
        head: a name of :data:`fm3d_core.tasks.HEADS`. "auto" is linear for a pyramid or if ``linear``; for token maps
            UNETR's decoder, or the light one where the patch is not 16 voxels.
        linear: what "auto" means; a method says so.

    Raises:
        SettingsError: unknown head, or one that does not go with this backbone.
    """
    from fm3d_core.models.decoders import UNETRHead, ViTAdapterHead
    from fm3d_core.models.heads import LinearHead
    from fm3d_core.models.light_decoder import LightDecoder

    check_head(head)
    width, patch = backbone.feature_channels[0], backbone.feature_strides[0]
    if head == "auto":
        head = "linear" if backbone.kind == "pyramid" or linear else "unetr" if patch == _UNETR_PATCH else "light"
    if head == "linear":
        return LinearHead(backbone.feature_channels, classes)
    if head == "mlp":
        raise SettingsError("the head mlp answers for whole volumes, not for voxels", remedy="Choose head linear")
    if backbone.kind == "pyramid":
        raise SettingsError(
            f"the head {head} decodes the tokens of a ViT, but this backbone is a {type(backbone).__name__}",
            remedy="Choose head linear or auto, or a ViT as backbone",
        )
    if head == "light":
        return LightDecoder(width, classes, patch, backbone.input_channels)
    if head == "unetr":
        if patch != _UNETR_PATCH:
            raise SettingsError(
                f"the head unetr needs patches of 16 x 16 x 16 voxels, this backbone's are {patch}",
                remedy="Choose head light, vit_adapter, linear or auto",
            )
        folded = int(getattr(backbone, "folded_channels", 1))
        return UNETRHead(width // folded, classes, patch, backbone.input_channels, folded)
    try:
        return ViTAdapterHead(backbone, classes)
    except ValueError as error:
        raise SettingsError(str(error), remedy="Choose head unetr, light, linear or auto") from error
