"""The class of a volume from a joint adapter: read from one crop in the middle of what was segmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.devices import autocast

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork


def joint_class(
    network: DenseNetwork,
    image: torch.Tensor,
    classes: torch.Tensor,
    crop: Size,
    spacing: tuple[float, float, float],
    device: torch.device,
) -> torch.Tensor:
    """Probabilities (image_labels,) of a volume's classes.

    Args:
        network: of a joint task, in evaluation mode.
        image: (C, X, Y, Z) prepared.
        classes: (X, Y, Z) what was segmented in it; the crop is centred on its centre of mass, or on the middle of the
            volume if nothing was found.
        crop: its size in voxels; beyond the volume is background.
        spacing: mm per voxel.
        device: where the network is.
    """
    import torch

    found = (classes > 0).nonzero()
    middle = found.float().mean(0) if len(found) else (torch.tensor(classes.shape) - 1) / 2
    part = crop_around(image, [round(float(place)) for place in middle], crop)
    with torch.inference_mode(), autocast(device):
        _, whole = network(part[None].to(device), spacing)
    return whole[0].float().softmax(0).cpu()


def crop_around(image: torch.Tensor, centre: list[int], crop: Size) -> torch.Tensor:
    """(C, *crop) around a voxel of ``image`` (C, X, Y, Z), with background where that is beyond it."""
    from torch.nn.functional import pad

    from fm3d_core.models.network import BACKGROUND

    starts = [place - edge // 2 for place, edge in zip(centre, crop, strict=True)]
    inside = [
        slice(max(start, 0), max(min(start + edge, size), 0))
        for start, edge, size in zip(starts, crop, image.shape[-3:], strict=True)
    ]
    missing: list[int] = []
    for start, edge, size in zip(starts, crop, image.shape[-3:], strict=True):
        before = max(-start, 0)
        missing = [before, max(start + edge - size, 0), *missing]
    return pad(image[(slice(None), *inside)], missing, value=BACKGROUND)
