"""From a crop store to batches: each sample has its own random stream, so workers and resumes change nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fm3d_core.pretraining.augmentations import AugmentationSettings, augment_with_axes
from fm3d_core.pretraining.batches import Batch
from fm3d_core.pretraining.crops import GLOBAL_CROPS, LOCAL_CROPS, CropSettings, Spacing, draw_box, read_crop
from fm3d_core.pretraining.endless_loading import EndlessLoader
from fm3d_core.pretraining.masking import CropBatch, Grid, MaskSettings, collate_crops
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.sampling import Draw, EndlessSampler
from fm3d_core.pretraining.store_dataset import StoreDataset
from fm3d_core.volumes.crop_store import CropStore


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
class NamedBatch(Batch):
    """A batch and where it came from, for messages such as "the loss became infinite at ...".

    Attributes:
        crops: for the step.
        names: of the volumes, in order.
        unreadable: one line for each stored volume that could not be read and was replaced.
    """

    crops: CropBatch
    names: tuple[str, ...]
    unreadable: tuple[str, ...]


class CropDataset(StoreDataset[CropSample]):
    """Cuts, resizes and changes the crops of a draw.

    Args:
        store: of volumes.
        views: what is cut.
    """

    def __init__(self, store: CropStore, views: ViewSettings | None = None) -> None:
        super().__init__(store)
        self.views = views or ViewSettings()

    def sample(self, index: int, draw: Draw, generator: torch.Generator, unreadable: tuple[str, ...]) -> CropSample:
        volume, views = self.store.volumes[index], self.views
        frame = self.draw_frame(index, generator)
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


CropLoader = EndlessLoader[Draw, CropSample, NamedBatch]


def crop_loader(
    store: CropStore,
    views: ViewSettings,
    patch_size: Grid,
    place: Place,
    *,
    masks: MaskSettings | None = None,
    dtype: torch.dtype | None = None,
) -> CropLoader:
    """The loader of one process.

    Args:
        store: of volumes.
        views: what is cut.
        patch_size: of the network, in voxels.
        place: the process.
        masks: how much is hidden.
        dtype: of the crops; 3DINO trains on float16, which also halves what workers send.
    """
    collate = Collate(patch_size, masks or MaskSettings(), dtype, place.rank, place.world_size)
    return EndlessLoader(CropDataset(store, views), EndlessSampler.of(place, len(store)), collate, place)
