"""From volumes and what is known of them as a whole to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.building import build, spec_of
from fm3d_core.adaptation.finetune import Select, finished, new_card
from fm3d_core.adaptation.image_cases import ImageCase, ImageSet, read_image_set
from fm3d_core.adaptation.memory import or_on_processor, told_in_words
from fm3d_core.adaptation.methods import NoTraining
from fm3d_core.adaptation.plan import FEW_SHOT, TrainingPlan
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.clocks import Stopwatch
from fm3d_core.devices import choose_device
from fm3d_core.errors import SettingsError
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.adapter import Adapter
    from fm3d_core.adaptation.batches import BatchSource
    from fm3d_core.adaptation.building import Built
    from fm3d_core.adaptation.methods import Method
    from fm3d_core.models.backbone import Size
    from fm3d_core.tasks import WholeVolumeTask


def finetune_images(
    cases: Sequence[ImageCase],
    task: WholeVolumeTask,
    settings: FinetuneSettings,
    *,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # immutable
    select: Select | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Adapter:
    """Learn a task about whole volumes.

    Args:
        cases: images with targets; those that cannot be used are left out and named in the card.
        task: its preprocessing and crop, if None, are planned from the cases.
        settings: method, backbone, budget, seed; ``batch_size`` counts volumes.
        plan: what a recipe fixes besides. few_shot, the default augmentation, is FM3D's change of intensities.
        select: makes the choice of the best weights by validation cases; None: the last weights are taken.
        progress: receives the stages "reading volumes", ["computing features",] "training".
        should_stop: asked at every step.

    Raises:
        FM3DError: a mistake in cases, settings or weights.
        Stopped: ``should_stop`` said so before anything was learned that can be kept.
    """
    check_settings(settings)
    choose_device(settings.device)  # says what is wrong with it before any volume is read
    fed = spec_of(settings, task.channels)[1]
    data = read_image_set(cases, task, fed, progress=progress, should_stop=should_stop)
    return train_images(data, settings, plan=plan, select=select, progress=progress, should_stop=should_stop)


@or_on_processor
@told_in_words
def train_images(
    data: ImageSet,
    settings: FinetuneSettings,
    *,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # immutable
    select: Select | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    keep_when_stopped: bool = False,
) -> Adapter:
    """Learn from cases that were read already; see :func:`finetune_images`, and for ``keep_when_stopped``
    :func:`fm3d_core.adaptation.finetune.train`.

    Raises:
        FM3DError: a mistake in settings or weights.
        Stopped: ``should_stop`` said so before anything was learned that can be kept.
    """
    check_settings(settings)
    settings = replace(settings, optimiser=settings.optimiser or "adamw")  # muon was measured for voxels only
    method, task = settings.chosen_method(), data.task
    device = choose_device(settings.device)
    built = build(task, settings, method)
    assert task.preprocessing is not None and task.crop is not None  # reading has planned them
    built.network.input_range = task.preprocessing.input_range
    built.network.to(device)
    watch = Stopwatch(settings.clock)
    source = image_source(data, built, method, settings, plan, task.crop, device, progress, should_stop)
    card = replace(
        new_card(task, settings, built, task.crop),
        cases=data.used,
        left_out=data.left_out,
        notes=(*built.notes, *data.notes),
    )
    return finished(
        card,
        built.network,
        source,
        method,
        settings,
        plan,
        select,
        watch,
        device,
        progress,
        should_stop,
        keep_when_stopped=keep_when_stopped,
    )


def image_source(
    data: ImageSet,
    built: Built,
    method: Method,
    settings: FinetuneSettings,
    plan: TrainingPlan,
    crop: Size,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> BatchSource:
    """What a method trains on: features computed once if the backbone stays untouched, else changed crops.

    Raises:
        Stopped: ``should_stop`` said so while features were computed.
    """
    import torch

    from fm3d_core.adaptation.augmentation import Augmentation, change_intensities
    from fm3d_core.adaptation.image_batches import ImageFeatureSource, ImageSource
    from fm3d_core.adaptation.published_augmentation import published

    generator = torch.Generator().manual_seed(settings.seed)
    network, size = built.network, settings.batch_size
    if method.frozen_backbone:
        return ImageFeatureSource(
            network, data.prepared, crop, size, generator, device, progress=progress, should_stop=should_stop
        )
    change = published(plan.augmentation, crop, labelled=False, seed=settings.seed)
    if plan.augmentation == FEW_SHOT:
        own = Augmentation()
        return ImageSource(
            network, data.prepared, crop, size, generator, device, lambda each: change_intensities(each, own, generator)
        )
    return ImageSource(network, data.prepared, crop, size, generator, device, change)


def check_settings(settings: FinetuneSettings) -> None:
    """Refuse settings under which nothing about whole volumes can be learned.

    Raises:
        SettingsError: a method without training, or a single volume in a step.
    """
    if settings.method == NoTraining.name:
        raise SettingsError("method none knows structures by name, not whole volumes", remedy="Choose another method")
    if settings.batch_size < 2:
        raise SettingsError(
            "batch_size is 1, but the head's batch norm compares the volumes of a step", remedy="Choose 2 or more"
        )
