"""One vector for a whole volume: what kind of image it is to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.inference.frozen_features import windows_of
from fm3d_core.progress import ShouldStop, never_stop

if TYPE_CHECKING:
    from fm3d_core.inference.predictor import Predictor
    from fm3d_core.volumes import Volume

MOST_WINDOWS = 8  # of a large volume, evenly spread
EMPTY = -0.95  # of the prepared image: darker is background


def image_embedding(
    predictor: Predictor, volume: Volume, *, should_stop: ShouldStop = never_stop
) -> npt.NDArray[np.float32]:
    """The mean over windows of the class token; of a network without one, of its coarsest map's mean.

    Windows count by how much of them is not empty. The backbone is that of the adapter, as far as it was trained.

    Returns:
        (C,) of unit length.

    Raises:
        SettingsError: the task is for images of several channels.
        Stopped: ``should_stop`` said so.
    """
    import torch

    preprocessing = predictor.card.task.preprocessing
    assert preprocessing is not None  # an adapter's task always has one
    prepared = preprocessing.prepare(volume)
    predictor.card.task.check_channels(len(prepared.image))
    x, y, z = prepared.image.shape[-3:]
    boxes = list(windows_of((x, y, z), predictor.card.window))
    if len(boxes) > MOST_WINDOWS:
        boxes = [boxes[i] for i in np.linspace(0, len(boxes) - 1, MOST_WINDOWS).round().astype(int)]
    total: Any = 0.0
    for box in boxes:
        if should_stop():
            raise Stopped("The look at the images")
        part = prepared.image[(slice(None), *box)][None].to(predictor.device)
        weight = float((part > EMPTY).float().mean()) + 1e-3
        with torch.inference_mode(), autocast(predictor.device):
            padded = predictor.network.prepare(part)
            total = total + weight * _vector(predictor, padded, prepared.spacing).double().cpu()
    vector: npt.NDArray[np.float64] = total.numpy()
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def _vector(predictor: Predictor, padded: Any, spacing: Any) -> Any:
    backbone: Any = predictor.network.backbone
    if hasattr(backbone, "forward_features"):
        spaced = {"spacing": spacing} if getattr(backbone, "needs_spacing", False) else {}
        return backbone.forward_features(padded, **spaced).cls_token[0]
    return predictor.network.features(padded, spacing)[-1][0].float().mean(dim=(1, 2, 3))
