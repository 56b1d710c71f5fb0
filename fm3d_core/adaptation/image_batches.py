"""Batches for tasks about whole volumes: augmented crops, or features of middle crops computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from fm3d_core.adaptation.batches import Batch
from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.models.network import BACKGROUND, DenseNetwork
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from fm3d_core.adaptation.image_cases import PreparedImage
    from fm3d_core.models.backbone import Size


class Rounds:
    """Indices in rounds: each comes once before any comes again, in an order of its own each time."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator
        self._left: list[int] = []

    def take(self, number: int) -> list[int]:
        """The next ``number`` indices."""
        taken: list[int] = []
        while len(taken) < number:
            if not self._left:
                self._left = torch.randperm(self.count, generator=self.generator).tolist()
            taken.append(self._left.pop())
        return taken


class ImageSource:
    """Crops from anywhere in the volumes, padded where a volume is smaller, and changed at random.

    Args:
        network: computes the scores.
        cases: the prepared volumes.
        crop: size of a crop in voxels.
        batch_size: crops per batch, of different volumes.
        generator: of everything random here.
        device: where the network is.
        change: of each crop; None leaves it.
    """

    def __init__(
        self,
        network: DenseNetwork,
        cases: Sequence[PreparedImage],
        crop: Size,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.network, self.cases, self.crop, self.batch_size = network, cases, crop, batch_size
        self.generator, self.device, self.change = generator, device, change
        self._rounds = Rounds(len(cases), generator)

    @property
    def crops(self) -> int:
        """In a batch."""
        return self.batch_size

    def halve(self) -> bool:
        """Half as many crops in a batch, but two at least: the head's batch norm compares them."""
        enough = self.batch_size >= 4
        self.batch_size = self.batch_size // 2 if enough else self.batch_size
        return enough

    def draw(self) -> Batch:
        """Images (B, C, *crop) and their spacings (B, 3), targets (B, T)."""
        drawn = [self.cases[index] for index in self._rounds.take(self.batch_size)]
        images = []
        for case in drawn:
            place = torch.rand(3, generator=self.generator).tolist()
            image = cut(case.image, self.crop, place).float()
            images.append(image if self.change is None else self.change(image))
        spacing = torch.tensor([case.spacing for case in drawn])
        return Batch(
            (torch.stack(images).to(self.device), spacing), _targets(drawn), tuple(each.name for each in drawn)
        )

    def scores(self, batch: Batch) -> Any:
        """Scores (B, outputs)."""
        return self.network(*batch.inputs)


class ImageFeatureSource:
    """Maps of the frozen backbone, computed once on the middle of each volume; a step runs the head alone.

    Raises:
        Stopped: ``should_stop`` said so while features were computed.
    """

    def __init__(
        self,
        network: DenseNetwork,
        cases: Sequence[PreparedImage],
        crop: Size,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        *,
        progress: ProgressCallback,
        should_stop: ShouldStop,
    ) -> None:
        self.network, self.batch_size, self.cases = network, batch_size, cases
        self._rounds = Rounds(len(cases), generator)
        self._maps = maps_of_middles(network, cases, crop, device, progress=progress, should_stop=should_stop)

    def draw(self) -> Batch:
        """Maps of some volumes, and their targets."""
        taken = self._rounds.take(self.batch_size)
        maps = tuple(torch.cat(each) for each in zip(*(self._maps[index] for index in taken), strict=True))
        drawn = [self.cases[index] for index in taken]
        return Batch(maps, _targets(drawn), tuple(each.name for each in drawn))

    def scores(self, batch: Batch) -> Any:
        """Scores (B, outputs)."""
        return self.network.head([tensor.float() for tensor in batch.inputs], None)


def maps_of_middles(
    network: DenseNetwork,
    cases: Sequence[PreparedImage],
    crop: Size,
    device: torch.device,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> list[list[torch.Tensor]]:
    """Of each case the maps (1, C_i, X_i, Y_i, Z_i) that the network's head takes, in half precision.

    Raises:
        Stopped: ``should_stop`` said so.
    """
    clock, found = StageClock("computing features", len(cases), progress), []
    for done, case in enumerate(cases):
        if should_stop():
            raise Stopped("Training")
        clock.report(done)
        padded = network.prepare(cut(case.image, crop)[None].float().to(device))
        with torch.inference_mode(), autocast(device):
            maps = network.features(padded, case.spacing)
        found.append([each.half().clone() for each in maps])
    clock.report(len(cases))
    return found


def cut(image: torch.Tensor, crop: Size, place: Sequence[float] = (0.5, 0.5, 0.5)) -> torch.Tensor:
    """A crop (C, *crop) of ``image`` (C, X, Y, Z), with background on both sides where the image is smaller.

    Args:
        image: to cut.
        crop: size in voxels.
        place: 0 to 1 along each axis: from the one end to the other; by default the middle.
    """
    slices: list[slice] = [slice(None)]
    padding: list[int] = []
    for size, edge, share in zip(image.shape[-3:], crop, place, strict=True):
        spare = max(size - edge, 0)
        start = min(int(share * (spare + 1)), spare)
        slices.append(slice(start, start + edge))
        missing = max(edge - size, 0)
        padding = [missing // 2, missing - missing // 2, *padding]
    part = image[tuple(slices)]
    return F.pad(part, padding, value=BACKGROUND) if any(padding) else part


def _targets(cases: Sequence[PreparedImage]) -> torch.Tensor:
    return torch.tensor([case.target for case in cases])
