"""The prompt decoder at work: what it draws of a region on a coarse grid, where the refinement at voxels starts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import WeightsError
from fm3d_core.files import sha256_of
from fm3d_core.inference.interactive.geodesic import Field, Mask
from fm3d_core.inference.interactive.prompt_maps import PromptMaps, stacked
from fm3d_core.inference.interactive.region import Region

if TYPE_CHECKING:
    import torch

    from fm3d_core.models.prompt_decoder import Encoded, PromptDecoder

VOXELS = 56**3  # of the coarse grid, at most: the largest made-up volume that the decoder has seen
FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Sketch:
    """A region as the decoder sees it.

    Attributes:
        region: with the coarse grid.
        image: (1, 1, X', Y', Z') in [-1, 1], padded with background.
        half: (x, y, z) the same at half the resolution.
        encoded: what the decoder needs of the image.
    """

    region: Region
    image: torch.Tensor
    half: Field
    encoded: Encoded

    @property
    def bytes(self) -> int:
        """Memory it takes, about."""
        return self.encoded.bytes + self.image.nelement() * 5

    def draw(
        self,
        positive: npt.NDArray[np.int64],
        negative: npt.NDArray[np.int64],
        box: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
        previous: Field | None = None,
    ) -> Field:
        """Probability (X, Y, Z) on the coarse grid.

        Args:
            positive, negative: (n, 3) prompted voxels of the volume.
            box: first voxel and the one after the last, of the volume.
            previous: (X, Y, Z) of the coarse grid, a segmentation to correct.
        """
        import torch
        from torch.nn import functional as F

        of_one, of_other = (
            PromptMaps.of(self._mask(voxels), self.half, self.region.spacing) for voxels in (positive, negative)
        )
        allowed = None if box is None else self._box(*box)
        before = None if previous is None else F.avg_pool3d(self._padded(previous), 2)[0, 0].numpy()
        maps = torch.from_numpy(stacked(of_one, of_other, allowed, before))[None]
        with torch.inference_mode():
            logits, _ = prompt_decoder()(
                self.encoded, self.image, maps, torch.from_numpy(of_one.voxels), torch.from_numpy(of_other.voxels)
            )
        x, y, z = self.region.shape
        result: Field = logits[0, 0, :x, :y, :z].float().sigmoid().numpy()
        return result

    def _mask(self, voxels: npt.NDArray[np.int64]) -> Mask:
        mask = np.zeros(self.half.shape, bool)
        mask[tuple((self.region.working(voxels) // 2).T)] = True
        return mask

    def _box(self, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Mask:
        mask = np.zeros(self.half.shape, bool)
        scale = np.array(self.region.shape) / np.array(self.region.size) / 2
        low = np.maximum(np.floor((start - self.region.start) * scale), 0).astype(int)
        high = np.ceil((stop - self.region.start) * scale).astype(int)
        mask[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = True
        return mask

    def _padded(self, values: Field) -> torch.Tensor:
        import torch
        from torch.nn import functional as F

        missing = [whole - part for whole, part in zip(self.image.shape[-3:], values.shape, strict=True)]
        return F.pad(torch.from_numpy(values)[None, None], (0, missing[2], 0, missing[1], 0, missing[0]))


@cache
def prompt_decoder() -> PromptDecoder:
    """The decoder that comes with FM3D, on the CPU; it is for the features of the default backbone.

    Raises:
        WeightsError: the installed file is missing or was changed.
    """
    import json

    import safetensors
    import yaml
    from safetensors.torch import load_file

    from fm3d_core.models.prompt_decoder import PromptDecoder

    entry = yaml.safe_load((FOLDER / "prompt_decoder.yaml").read_text(encoding="utf-8"))
    path = FOLDER / entry["file"]
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise WeightsError(
            "the prompt decoder that comes with FM3D is missing or was changed", path=path, remedy="Install FM3D again"
        )
    with safetensors.safe_open(path, "pt") as file:
        decoder = PromptDecoder(**json.loads(file.metadata()["options"]))
    decoder.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return decoder.requires_grad_(False).eval()
