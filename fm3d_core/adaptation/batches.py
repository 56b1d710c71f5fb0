"""Where training steps get their batches: augmented crops of the volumes, or features computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fm3d_core.adaptation.augmentation import Augmentation, change_intensities, crop_positions, sample_crop
from fm3d_core.adaptation.cases import TrainingCase
from fm3d_core.adaptation.memory import half_crop
from fm3d_core.adaptation.plan import CropSampling
from fm3d_core.devices import autocast
from fm3d_core.errors import Stopped
from fm3d_core.models.backbone import Size
from fm3d_core.models.network import DenseNetwork
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock
from fm3d_core.volumes import IGNORED

if TYPE_CHECKING:
    from fm3d_core.adaptation.feature_cache import WindowFeatures
    from fm3d_core.adaptation.published_augmentation import PublishedAugmentation

# A crop holds at most so many voxels of a volume: a step on two CPU cores then takes a fraction of a second. More and
# smaller crops taught more in a minute than fewer of 64^3 (benchmarks/optimisers.py), but a backbone with a coarse last
# map needs CROP_STEPS of its voxels along each axis, for which LARGEST_CROP is allowed.
CROP_VOXELS, LARGEST_CROP, CROP_STEPS = 48**3, 64**3, 4
KNOWN_POSITIONS = 10_000  # of a volume labelled in part, that crops are centred on
FEATURE_BYTES = 2 * 1024**3  # cached features of all windows together


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        inputs: for the source that drew it.
        target: (B, 1, X, Y, Z) classes, ``IGNORED`` where nothing was annotated; of a task about whole volumes what is
            known of each, (B, T).
        names: of the cases.
        annotated: (B, classes) bool, which classes were annotated in the case; None: all in all.
        values: (B, T) what is known of each whole volume besides; None: nothing.
    """

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor
    names: tuple[str, ...]
    annotated: torch.Tensor | None = None
    values: torch.Tensor | None = None


class BatchSource(Protocol):
    """Draws batches for ever, and computes the scores of one (of a joint task, both of its scores)."""

    def draw(self) -> Batch: ...

    def scores(self, batch: Batch) -> Any: ...


class VoxelSource(BatchSource, Protocol):
    """The same for tasks about voxels."""

    def features(self, batch: Batch) -> tuple[list[torch.Tensor], Size]:
        """The backbone's maps for a batch, without gradient, and the size of the padded image they are of."""
        ...


def plan_crop(cases: Sequence[TrainingCase], multiple: Size, most: int | None = None) -> Size:
    """The crop's size: the median case if it is small, else cut along the longest axes to ``most`` voxels.

    Each edge is a multiple of ``multiple``, the coarsest map's voxel; ``most``, if None, follows from it. What is
    beyond a case with few slices does not count: it is no part of the volume.
    """
    limit = most or min(max(math.prod(CROP_STEPS * step for step in multiple), CROP_VOXELS), LARGEST_CROP)
    sizes = torch.tensor([case.image.shape[-3:] for case in cases], dtype=torch.float32).quantile(0.5, dim=0)
    steps = torch.tensor(multiple)
    edges = (sizes / steps).ceil().long().clamp(min=1) * steps
    while edges.minimum(sizes).prod() > limit and (edges > steps).any():
        longest = int(torch.where(edges > steps, edges, 0).argmax())
        edges[longest] -= steps[longest]
    x, y, z = edges.tolist()
    return x, y, z


class CropSource:
    """Augmented crops, two in three centred on a labelled voxel (each structure equally often).

    The others are centred anywhere; in a volume labelled in part on any annotated voxel.

    Args:
        network: computes the scores.
        cases: the prepared volumes.
        crop: size of a crop in voxels.
        batch_size: crops per batch.
        generator: of everything random here.
        device: where the network is.
        augmentation: None for straight crops.
        sampling: where crops are centred, and how many of one volume follow each other; ``batch_size`` counts volumes.
        change: of each crop after it was cut.
        fewest: crops that a batch must have at least.
    """

    def __init__(
        self,
        network: DenseNetwork,
        cases: Sequence[TrainingCase],
        crop: Size,
        batch_size: int,
        generator: torch.Generator,
        device: torch.device,
        augmentation: Augmentation | None,
        sampling: CropSampling = CropSampling(),  # noqa: B008  # immutable
        change: PublishedAugmentation | None = None,
        fewest: int = 1,
    ) -> None:
        self.sampling, self.change, self.fewest = sampling, change, fewest
        self.network, self.cases, self.crop, self.batch_size = network, cases, crop, batch_size
        self.generator, self.device, self.augmentation = generator, device, augmentation
        self._classes = _number_of_classes(cases)
        self._foreground = [_positions_by_class(case.label) for case in cases]
        if not sampling.structures_alike:
            self._foreground = [[torch.cat(each)] if each else [] for each in self._foreground]
        self._known = [_some_known_positions(case.label) for case in cases]

    def draw(self) -> Batch:
        """Images (B, C, *crop) and their spacings (B, 3), target (B, 1, *crop)."""
        images, labels, drawn = [], [], []
        volumes = [self._random(len(self.cases)) for _ in range(self.batch_size)]
        for index in (each for each in volumes for _ in range(self.sampling.crops_per_volume)):
            case = self.cases[index]
            positions = crop_positions(self.crop, self._centre(index), self.augmentation, self.generator)
            image, label = sample_crop(case.image, case.label, positions)
            if self.augmentation is not None:
                image = change_intensities(image, self.augmentation, self.generator)
            if self.change is not None:
                image, label = self.change.with_label(image, label)
            images.append(image)
            labels.append(label)
            drawn.append(case)
        image, spacing = torch.stack(images).to(self.device), torch.tensor([case.spacing for case in drawn])
        names = tuple(case.name for case in drawn)
        target = torch.stack(labels).to(self.device)
        return Batch((image, spacing), target, names, _annotated(drawn, self._classes), _values(drawn))

    @property
    def crops(self) -> int:
        """In a batch."""
        return self.batch_size * self.sampling.crops_per_volume

    def halve(self) -> bool:
        """Half as many crops in a batch; then smaller crops, unless the change of crops is made for their size."""
        if self.crops >= 2 * self.fewest:
            if self.batch_size > 1:
                self.batch_size //= 2
            else:
                self.sampling = replace(self.sampling, crops_per_volume=self.sampling.crops_per_volume // 2)
            return True
        smaller = half_crop(self.crop, self.network.size_multiple) if self.change is None else None
        self.crop = smaller or self.crop
        return smaller is not None

    def scores(self, batch: Batch) -> Any:
        """Scores (B, classes, *crop), of a joint task those of the whole volumes too."""
        return self.network(*batch.inputs)

    def features(self, batch: Batch) -> tuple[list[torch.Tensor], Size]:
        """The backbone's maps, and the size of the padded image."""
        image, spacing = batch.inputs
        padded = self.network.prepare(image)
        with torch.no_grad(), autocast(self.device):
            maps = self.network.features(padded, spacing)
        x, y, z = padded.shape[-3:]
        return maps, (x, y, z)

    def _centre(self, index: int) -> torch.Tensor:
        """Voxel position of the next crop's centre in the case; a volume no larger than the crop is centred."""
        size = torch.tensor(self.cases[index].image.shape[-3:], dtype=torch.float32)
        middle = (size - 1) / 2
        half = torch.tensor(self.crop) / 2
        positions = self._foreground[index]
        if positions and float(torch.rand(1, generator=self.generator)) < self.sampling.foreground:
            chosen = positions[self._random(len(positions))]
            point = chosen[self._random(len(chosen))].float()
        elif (known := self._known[index]) is not None:
            point = known[self._random(len(known))].float()
        else:
            point = torch.rand(3, generator=self.generator) * (size - 1)
        low, high = half - 0.5, size - half - 0.5
        return torch.where(high > low, torch.minimum(torch.maximum(point, low), high), middle)

    def _random(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self.generator))


class FeatureSource:
    """Feature maps of a frozen backbone, computed once for fixed windows; a step runs the head alone.

    Windows with labels come first; they are cached as half precision until ``FEATURE_BYTES`` are used. Windows in which
    nothing was annotated are left out. ``cache`` keeps features on disk for the next training.

    Raises:
        Stopped: ``should_stop`` said so while features were computed.
    """

    def __init__(
        self,
        network: DenseNetwork,
        cases: Sequence[TrainingCase],
        window: Size,
        generator: torch.Generator,
        device: torch.device,
        *,
        progress: ProgressCallback,
        should_stop: ShouldStop,
        cache: WindowFeatures | None = None,
    ) -> None:
        self.head, self.generator, self.device = network.head, generator, device
        self._items: list[Batch] = []
        windows = [part for case in cases for part in windows_of(case, window)]
        windows = [part for part in windows if bool((part.label != IGNORED).any())]
        windows.sort(key=lambda part: -int(((part.label > 0) & (part.label != IGNORED)).sum()))
        classes = _number_of_classes(cases)
        clock, used = StageClock("computing features", len(windows), progress), 0
        for done, part in enumerate(windows):
            if should_stop():
                raise Stopped("Training")
            clock.report(done)
            compute = window_features if cache is None else cache
            maps = compute(network, part, device)
            target = torch.zeros((1, 1, *maps[-1].shape[-3:]))
            _, x, y, z = part.label.shape
            target[0, :, :x, :y, :z] = part.label
            self._items.append(Batch(tuple(maps), target, (part.name,), _annotated([part], classes), _values([part])))
            used += sum(tensor.nbytes for tensor in maps)
            if used > FEATURE_BYTES:
                break
        clock.report(len(windows))

    def draw(self) -> Batch:
        """One window: its maps and its padded image, its target."""
        return self._items[int(torch.randint(len(self._items), (1,), generator=self.generator))]

    def scores(self, batch: Batch) -> Any:
        """Scores (1, classes, *window), of a joint task those of the whole volume too."""
        *maps, image = (tensor.float() for tensor in batch.inputs)
        return self.head(maps, image)

    def features(self, batch: Batch) -> tuple[list[torch.Tensor], Size]:
        """The maps that were computed, and the size of the padded image."""
        *maps, image = batch.inputs
        x, y, z = image.shape[-3:]
        return list(maps), (x, y, z)


def window_features(network: DenseNetwork, part: TrainingCase, device: torch.device) -> list[torch.Tensor]:
    """The frozen backbone's maps of a window (1, C_i, X/s_i, Y/s_i, Z/s_i) and its padded image, half precision."""
    padded = network.prepare(part.image[None].to(device))
    with torch.inference_mode(), autocast(device):
        features = network.features(padded, part.spacing)
    return [tensor.half().clone() for tensor in (*features, padded)]


def _positions_by_class(label: torch.Tensor) -> list[torch.Tensor]:
    """Voxel positions (n, 3) of each structure present in a label (1, X, Y, Z)."""
    return [torch.nonzero(label[0] == value) for value in label.unique().tolist() if value not in (0, IGNORED)]


def _some_known_positions(label: torch.Tensor) -> torch.Tensor | None:
    """At most ``KNOWN_POSITIONS`` positions (n, 3) of annotated voxels of a label (1, X, Y, Z); None if all are."""
    known = label[0] != IGNORED
    if bool(known.all()):
        return None
    flat = known.flatten().nonzero().flatten()
    if len(flat) > KNOWN_POSITIONS:
        flat = flat[torch.randint(len(flat), (KNOWN_POSITIONS,), generator=torch.Generator().manual_seed(0))]
    return torch.stack(torch.unravel_index(flat, known.shape), dim=-1)


def _number_of_classes(cases: Sequence[TrainingCase]) -> int:
    """Classes of the task: every structure is drawn in some case."""
    return 1 + max(int(case.label.masked_fill(case.label == IGNORED, 0).max()) for case in cases)


def _annotated(cases: Sequence[TrainingCase], classes: int) -> torch.Tensor | None:
    """(B, classes) bool, which classes were annotated in each case; None if all were in all."""
    if all(case.annotated is None for case in cases):
        return None
    return torch.tensor(
        [[case.annotated is None or value in case.annotated for value in range(classes)] for case in cases]
    )


def _values(cases: Sequence[TrainingCase]) -> torch.Tensor | None:
    """(B, T) what is known of each whole volume; None if nothing is."""
    return torch.tensor([case.target for case in cases]) if cases[0].target else None


def windows_of(case: TrainingCase, window: Size) -> list[TrainingCase]:
    """The case cut into windows side by side, see :func:`boxes_of`."""
    cuts = [(slice(None), *box) for box in boxes_of(case.image.shape[-3:], window)]
    return [replace(case, image=case.image[cut], label=case.label[cut]) for cut in cuts]


def boxes_of(size: Sequence[int], window: Size) -> list[tuple[slice, slice, slice]]:
    """Where windows lie that fill ``size`` side by side, the last of each axis moved inwards."""
    starts = []
    for length, edge in zip(size, window, strict=True):
        count = max(-(-length // edge), 1)
        starts.append(sorted({min(i * edge, max(length - edge, 0)) for i in range(count)}))
    return [
        (slice(x, x + window[0]), slice(y, y + window[1]), slice(z, z + window[2]))
        for x in starts[0]
        for y in starts[1]
        for z in starts[2]
    ]
