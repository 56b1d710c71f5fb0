"""From a crop store to batches: each sample has its own random stream, so workers and resumes change nothing."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fm3d_core.errors import VolumeError
from fm3d_core.pretraining.augmentations import AugmentationSettings, augment_with_axes
from fm3d_core.pretraining.crops import GLOBAL_CROPS, LOCAL_CROPS, CropSettings, Spacing, draw_box, read_crop
from fm3d_core.pretraining.masking import CropBatch, Grid, MaskSettings, collate_crops
from fm3d_core.pretraining.sampling import Draw, EndlessSampler
from fm3d_core.volumes.crop_store import CropStore

logger = logging.getLogger(__name__)

_SUBSTITUTES = 20  # volumes tried in place of unreadable ones before the store as a whole counts as damaged


@dataclass(frozen=True)
class ViewSettings:
    """What one sample consists of: global and local crops and their changes."""

    global_crops: CropSettings = GLOBAL_CROPS
    local_crops: CropSettings = LOCAL_CROPS
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)


@dataclass(frozen=True)
class CropSample:
    """The crops of one volume.

    Attributes:
        draw: which sample it is.
        name: of the volume they were cut from.
        global_crops, local_crops: each (1, X, Y, Z) float32.
        spacings: voxel size in mm of each crop, global ones first; empty where it is not known.
        unreadable: reasons of the volumes that should have been there instead, empty as a rule.
    """

    draw: Draw
    name: str
    global_crops: tuple[torch.Tensor, ...]
    local_crops: tuple[torch.Tensor, ...]
    unreadable: tuple[str, ...] = ()
    spacings: tuple[Spacing, ...] = ()


@dataclass(frozen=True)
class NamedBatch:
    """A batch and where it came from, for messages such as "the loss became infinite at ...".

    Attributes:
        crops: for the step.
        names: of the volumes, in order.
        unreadable: one line for each stored volume that could not be read and was replaced.
    """

    crops: CropBatch
    names: tuple[str, ...]
    unreadable: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> NamedBatch:
        """The same on another device."""
        return replace(self, crops=self.crops.to(device))


class CropDataset(Dataset[CropSample]):
    """Cuts, resizes and changes the crops of a draw.

    A stored volume that cannot be read is replaced by another one of the store, the same in every repetition.

    Args:
        store: of volumes.
        views: what is cut.
    """

    def __init__(self, store: CropStore, views: ViewSettings | None = None) -> None:
        self.store, self.views = store, views or ViewSettings()

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, draw: Draw) -> CropSample:
        """The sample of a draw.

        Raises:
            VolumeError: neither it nor any substitute can be read.
        """
        unreadable: list[str] = []
        for attempt in range(_SUBSTITUTES):
            generator = torch.Generator().manual_seed(draw.stream(f"crops {attempt}"))
            index = draw.index
            if attempt:
                index = int(torch.randint(len(self.store), (), generator=generator))
            try:
                return self._sample(draw, index, generator, tuple(unreadable))
            except VolumeError as error:
                last = error
                logger.warning("%s", error)
                unreadable.append(str(error))
        raise VolumeError(
            f"{_SUBSTITUTES} stored volumes in a row cannot be read",
            path=self.store.root,
            remedy="Check the disk; then run fm3d data cache again",
        ) from last

    def _sample(self, draw: Draw, index: int, generator: torch.Generator, unreadable: tuple[str, ...]) -> CropSample:
        volume, views = self.store.volumes[index], self.views
        frame = int(torch.randint(len(volume.frames), (), generator=generator))  # of 4D: a new one each time
        recipes, settings = views.augmentation.global_crops, views.augmentation
        plan = [(views.global_crops, recipes[min(view, len(recipes) - 1)]) for view in range(views.global_crops.number)]
        plan += [(views.local_crops, settings.local_crops)] * views.local_crops.number
        crops: list[torch.Tensor] = []
        spacings: list[Spacing] = []
        for kind, recipe in plan:
            box = draw_box(volume.shape, kind, generator)
            crop = read_crop(self.store, index, frame, box, kind.size)
            crop, axes = augment_with_axes(crop, recipe, settings, generator)
            crops.append(crop)
            spacing = box.spacing(volume.spacing, kind.size)
            spacings.append((spacing[axes[0]], spacing[axes[1]], spacing[axes[2]]))
        split = views.global_crops.number
        return CropSample(draw, volume.name, tuple(crops[:split]), tuple(crops[split:]), unreadable, tuple(spacings))


@dataclass(frozen=True)
class Collate:
    """Makes a batch of samples; the masks' random stream is that of the batch of all ranks.

    So the masks of a run are the same on any number of ranks.
    """

    patch_size: Grid
    masks: MaskSettings
    dtype: torch.dtype | None
    rank: int = 0
    world_size: int = 1

    def __call__(self, samples: Sequence[CropSample]) -> NamedBatch:
        """One batch."""
        pairs = [(sample.global_crops, sample.local_crops) for sample in samples]
        first = samples[0].draw
        generator = random.Random(Draw(first.seed, 0, first.batch).stream("masks"))
        spacings = [sample.spacings for sample in samples] if all(sample.spacings for sample in samples) else None
        share = (self.rank, self.world_size)
        crops = collate_crops(pairs, self.patch_size, self.masks, generator, self.dtype, spacings, share=share)
        lines = tuple(line for sample in samples for line in sample.unreadable)
        return NamedBatch(crops, tuple(sample.name for sample in samples), lines)


class CropLoader:
    """Endless batches, and the exact place to resume: after k batches taken, ``state_dict`` leads to batch k + 1.

    Args:
        dataset: of crops.
        sampler: the order.
        patch_size: of the network, in voxels.
        masks: how much is hidden.
        dtype: of the crops; 3DINO trains on float16, which also halves what workers send.
        workers: processes; 0 works in this one.
        prefetch: batches each worker prepares ahead.
    """

    def __init__(
        self,
        dataset: CropDataset,
        sampler: EndlessSampler,
        patch_size: Grid,
        *,
        masks: MaskSettings | None = None,
        dtype: torch.dtype | None = None,
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.sampler = sampler
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,  # yields draws, which are this data set's keys
            num_workers=workers,
            collate_fn=Collate(patch_size, masks or MaskSettings(), dtype, sampler.rank, sampler.world_size),
            prefetch_factor=prefetch if workers else None,
        )

    def __iter__(self) -> Iterator[NamedBatch]:
        for batch in self._loader:
            # counted when it is handed out: a checkpoint of the step that uses it has consumed it
            self.sampler.consumed()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; call it before iterating.

        Raises:
            SettingsError: the state belongs to other data or another seed.
        """
        self.sampler.load_state_dict(state)
