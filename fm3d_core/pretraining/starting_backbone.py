"""The backbone that a pretraining begins with, refused before any work if it cannot take the crops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fm3d_core.errors import SettingsError
from fm3d_core.models.weights.importing import choose_weights
from fm3d_core.models.zoo import BackboneSpec, create_backbone


def starting_backbone(backbone: str, weights: str | None, sizes: Iterable[tuple[int, int, int]], seed: int) -> Any:
    """A backbone for one-channel images, on the CPU, in evaluation mode.

    Args:
        backbone: a preset of the zoo.
        weights: to begin with, a file or an id of ``fm3d weights list``; None for random ones.
        sizes: of the crops it will see, in voxels.
        seed: of random weights.

    Raises:
        SettingsError: unknown preset, weights of another one, or crops that the backbone cannot take.
        WeightsError: see :func:`choose_weights`.
    """
    preset, chosen = choose_weights(weights, backbone)
    made: Any = create_backbone(BackboneSpec(preset, seed=seed, weights=chosen))
    for size in sizes:
        if any(side % step for side, step in zip(size, made.size_multiple, strict=True)):
            raise SettingsError(
                f"crops of {tuple(size)} voxels do not suit {preset}", remedy=f"Give multiples of {made.size_multiple}"
            )
    return made
