"""What the class token of a transformer attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import AdapterError
from fm3d_core.inference.insight import at_size, prepared_for, slid
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.inference.predictor import Predictor
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.volumes import Volume


def attention_map(
    predictor: Predictor,
    volume: Volume,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> npt.NDArray[np.float32]:
    """What the class token of the last block attends to, mean over the heads (as in Caron et al. 2021, DINO).

    Args:
        predictor: of an adapter.
        volume: to look at.
        progress: receives the stage "segmenting".
        should_stop: asked at every window.

    Returns:
        (X, Y, Z) float32 on the volume's RAS grid; 1 is what a patch gets if all get the same.

    Raises:
        AdapterError: the backbone has no class token, and so no such attention.
        SettingsError: the task is for images of several channels.
        Stopped: ``should_stop`` said so.
    """
    return _maps(predictor, volume, False, progress, should_stop)[0]


def attention_of_heads(
    predictor: Predictor,
    volume: Volume,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> npt.NDArray[np.float32]:
    """The same of every head by itself.

    Args:
        predictor, volume, progress, should_stop: as of :func:`attention_map`.

    Returns:
        (heads, X, Y, Z) float32.

    Raises:
        AdapterError, SettingsError, Stopped: as :func:`attention_map`.
    """
    return _maps(predictor, volume, True, progress, should_stop)


def has_attention(predictor: Predictor) -> bool:
    """Whether the backbone has a class token that attends to patches."""
    return hasattr(predictor.network.backbone, "last_attention")


class _Attention:
    """A network whose scores are the class token's attention: of each head, or their mean."""

    def __init__(self, network: DenseNetwork, of_heads: bool) -> None:
        self._network, self._of_heads = network, of_heads

    def __call__(self, windows: torch.Tensor, spacing: Any = None) -> torch.Tensor:
        padded = self._network.prepare(windows)
        backbone: Any = self._network.backbone
        of_patches = backbone.last_attention(padded, spacing).float()[:, :, 0, backbone.leading_tokens :]
        if not self._of_heads:
            of_patches = of_patches.mean(dim=1, keepdim=True)
        share = of_patches * of_patches.shape[2] / of_patches.sum(dim=2, keepdim=True)
        return at_size(share.unflatten(2, backbone.grid_of(padded)), padded.shape[-3:], windows.shape[-3:])


def _maps(
    predictor: Predictor, volume: Volume, of_heads: bool, progress: ProgressCallback, should_stop: ShouldStop
) -> npt.NDArray[np.float32]:
    if not has_attention(predictor):
        raise AdapterError(
            f"the backbone {predictor.card.backbone.preset} is no transformer with a class token",
            remedy="Look at its features instead, or train with a ViT",
        )
    prepared = prepared_for(predictor, volume)
    found = slid(_Attention(predictor.network, of_heads), predictor, prepared, progress, should_stop)
    return np.stack([prepared.restore_map(each) for each in found])
