"""Prompts as maps for :class:`fm3d_core.models.prompt_decoder.PromptDecoder`, at half the working grid's resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fm3d_core.inference.interactive.geodesic import FAR, Field, Mask, geodesic_distance

SPOT = 1.5  # voxels: standard deviation of a click's spot
WIDE = 8.0  # voxels over which nearness to a click falls by e
GEODESIC_SCALES = (2.0, 20.0)  # the same for geodesic nearness
UNLIKE, CHEAPEST, DEAREST = 0.15, 0.05, 20.0  # as in fm3d_core.inference.interactive.evidence
MANY = 64  # prompted voxels whose brightness and features are compared one by one
_ROUNDS = 1


@dataclass(frozen=True)
class PromptMaps:
    """Maps of one kind of prompt.

    Attributes:
        maps: five maps (x, y, z): spot, wide nearness, geodesic nearness of both scales, likeness of brightness.
        voxels: (n,) flat indices of at most :data:`MANY` prompted voxels.
    """

    maps: tuple[Field, ...]
    voxels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask, image: Field, spacing: tuple[float, float, float]) -> PromptMaps:
        """Of the prompted voxels ``mask`` in ``image``, both (x, y, z).

        Args:
            spacing: of this grid; only its proportions count.
        """
        from scipy import ndimage

        found = np.flatnonzero(mask)
        if not len(found):
            return cls((np.zeros(mask.shape, np.float32),) * 5, found)
        finest = min(spacing)
        unit = (spacing[0] / finest, spacing[1] / finest, spacing[2] / finest)
        distance = ndimage.distance_transform_edt(~mask, sampling=unit).astype(np.float32)
        chosen = found if len(found) <= MANY else found[np.linspace(0, len(found) - 1, MANY).astype(int)]
        unlike = np.full(mask.shape, 2, np.float32)
        for value in np.unique(image.ravel()[chosen]):
            np.minimum(unlike, np.abs(image - value), out=unlike)
        cost = np.minimum((unlike / UNLIKE) ** 2, DEAREST) + np.float32(CHEAPEST)
        geodesic = geodesic_distance(cost, mask, unit, _ROUNDS)
        maps = (
            np.exp(-((distance / SPOT) ** 2) / 2),
            np.exp(-distance / WIDE),
            *(np.exp(-np.minimum(geodesic, FAR) / scale) for scale in GEODESIC_SCALES),
            np.exp(-unlike / UNLIKE),
        )
        return cls(tuple(each.astype(np.float32) for each in maps), chosen)


def stacked(
    positive: PromptMaps, negative: PromptMaps, allowed: Mask | None, previous: Field | None
) -> npt.NDArray[np.float32]:
    """All maps (PROMPT_CHANNELS, x, y, z).

    Args:
        positive, negative: of the prompts.
        allowed: the box; None without one.
        previous: probability of a segmentation to correct; None without one.
    """
    nothing = np.zeros(positive.maps[0].shape, np.float32)
    inside = nothing if allowed is None else allowed.astype(np.float32)
    outside = nothing if allowed is None else (~allowed).astype(np.float32)
    return np.stack([*positive.maps, *negative.maps, inside, outside, nothing if previous is None else previous])
