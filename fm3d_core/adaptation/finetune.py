"""From a few labelled volumes to an adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fm3d_core.adaptation.adapter import Adapter, AdapterCard, UsedCase, library_versions, now, trained_tensors
from fm3d_core.adaptation.cases import (
    LabeledCase,
    check_structures_left,
    load_cases,
    notes_on_labels,
    plan_preprocessing,
    prepare_cases,
)
from fm3d_core.adaptation.methods import Method, NoTraining, Scratch, check_method
from fm3d_core.adaptation.methods.base import AfterStep
from fm3d_core.adaptation.methods.parts import is_plain_probe
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.adaptation.size_prior import measured_sizes
from fm3d_core.clocks import Stopwatch
from fm3d_core.models.weights.catalogue import find_entry
from fm3d_core.models.weights.importing import DEFAULT_BACKBONE, RANDOM, choose_weights
from fm3d_core.models.weights.shipped_weights import shipped_for
from fm3d_core.models.weights.store import card_of, channels_of_weights
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.batches import BatchSource
    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.models.backbone import Backbone, Size
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.models.weights.catalogue import NetworkInput

logger = logging.getLogger(__name__)
StageCallback = Callable[[Adapter], None]


def ignore_stage(adapter: Adapter) -> None:
    """The callback of a caller who waits for the last stage."""


def finetune(
    cases: Sequence[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    on_stage: StageCallback = ignore_stage,
) -> Adapter:
    """Learn ``task`` from ``cases``.

    Args:
        cases: images with labels; unusable ones are left out and named in the card.
        task: its preprocessing, if None, is planned from the cases.
        settings: method, backbone, budget, seed.
        progress: receives the stages "reading volumes", "preparing volumes", ["computing features",] ["solving the
            head",] "training".
        should_stop: asked at every step.
        on_stage: receives a complete adapter that can be used while training goes on: after a few seconds the linear
            head on the frozen backbone, where the head's weights were solved for.

    Raises:
        FM3DError: a mistake in cases, settings or weights; see :mod:`fm3d_core.errors`.
        Stopped: ``should_stop`` said so; nothing is kept.
    """
    if settings.method == NoTraining.name:
        from fm3d_core.adaptation.zero_shot import require_zero_shot

        return require_zero_shot(task, settings)
    from fm3d_core.adaptation.batches import plan_crop
    from fm3d_core.adaptation.closed_form import can_be_solved, linear_part, solve_head
    from fm3d_core.adaptation.trainer import Budget, optimise
    from fm3d_core.devices import choose_device

    method = check_method(settings.method, settings.decoder, settings.bottleneck)
    device = choose_device(settings.device)
    built = _build(task, settings, method)
    network, notes = built.network, list(built.notes)
    loaded, refused = load_cases(cases, task, progress=progress, should_stop=should_stop)
    if task.preprocessing is None:
        task = replace(task, preprocessing=plan_preprocessing(loaded, built.fed))
        notes += _notes_on_input(task, built.fed)
    assert task.preprocessing is not None
    network.input_range = task.preprocessing.input_range
    notes += notes_on_labels(loaded)
    prepared = prepare_cases(loaded, task.preprocessing, progress=progress, should_stop=should_stop)
    check_structures_left(prepared, task)
    for case in prepared:
        task.check_channels(len(case.image))
    network.to(device)
    window = plan_crop(prepared, network.size_multiple)
    watch = Stopwatch(settings.clock)
    source = batch_source(network, method, prepared, window, settings, device, progress, should_stop)
    for note in notes:
        logger.info(note)
    card = replace(
        _card(task, settings, built, window),
        cases=tuple(
            UsedCase(case.name, case.image_sha256, case.label_sha256, case.annotation.to_dict(), case.voxels_sha256)
            for case in loaded
        ),
        left_out=tuple(refused),
        notes=tuple(notes),
        sizes=measured_sizes(loaded, task),
    )
    first_head: dict[str, torch.Tensor] = {}
    if settings.closed_form and can_be_solved(network):
        solve_head(network, source, settings.seed, progress=progress, should_stop=should_stop)
        if "new" not in (settings.decoder, settings.bottleneck):
            first_head = _to_cpu(linear_part(network.head).state_dict())
        if not method.frozen_backbone and is_plain_probe(network, settings.decoder, settings.bottleneck):
            on_stage(_linear_head(card, network, watch.elapsed))
    record = optimise(
        source,
        network.parameters(),
        task.loss(),
        Budget(max(settings.seconds - watch.elapsed, 1.0), settings.steps, settings.clock),
        learning_rate=settings.learning_rate or method.learning_rate,
        device=device,
        progress=progress,
        should_stop=should_stop,
        after_step=partial(method.after_step, network) if isinstance(method, AfterStep) else None,
    )
    training = {"steps": record.steps, "seconds": round(record.seconds, 2), "loss": round(record.loss, 5)}
    card = replace(card, training=training, stage="final")
    return Adapter(card, _to_cpu(trained_tensors(network)), first_head)


def _linear_head(card: AdapterCard, network: DenseNetwork, seconds: float) -> Adapter:
    """What the ridge regression found, on the backbone as it was: a linear probe, and it is stored as one."""
    tensors = {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
    training = {"steps": 0, "seconds": round(seconds, 2)}
    probe = replace(card, method="linear_probe", head="linear", decoder="auto", bottleneck="auto")
    return Adapter(replace(probe, training=training, stage="linear_probe", created=now()), _to_cpu(tensors))


def untrained_adapter(task: SegmentationTask, settings: FinetuneSettings) -> Adapter:
    """The same network before any training: the honest "before" of a comparison.

    Raises:
        FM3DError: a mistake in settings or weights.
    """
    method = check_method(settings.method, settings.decoder, settings.bottleneck)
    built = _build(task, settings, method)
    task = replace(task, preprocessing=task.preprocessing or Preprocessing())
    card = replace(_card(task, settings, built, (64, 64, 64)), notes=built.notes)
    return Adapter(card, _to_cpu(trained_tensors(built.network)))


def plain_backbone(settings: FinetuneSettings, channels: int) -> Backbone:
    """The backbone that a training with these settings begins from.

    Raises:
        FM3DError: a mistake in settings or weights.
    """
    return create_backbone(_spec_of(settings, channels)[0])


def _spec_of(settings: FinetuneSettings, channels: int) -> tuple[BackboneSpec, NetworkInput | None]:
    """What builds the backbone, and what its weights were fed with in pretraining, if that is known and wanted."""
    preset, weights = _choose_weights(settings, channels)
    weight_card = card_of(weights) if weights else None
    fold = channels > 1 and weights is not None and channels_of_weights(weights) == 1
    fed = find_entry(weight_card.id).input if weight_card and weight_card.id and settings.match_weights else None
    return BackboneSpec(preset, channels, settings.seed, weights, fold), fed


@dataclass(frozen=True)
class _Built:
    """The network ready to train.

    Attributes:
        network: backbone and head, with what the method adds.
        spec: what rebuilds the backbone.
        sha256: the backbone's identity.
        fed: what its weights were fed with in pretraining, if that is known and wanted.
        notes: what was chosen for the user.
    """

    network: DenseNetwork
    spec: BackboneSpec
    sha256: str
    fed: NetworkInput | None
    notes: tuple[str, ...]


def _build(task: SegmentationTask, settings: FinetuneSettings, method: Method) -> _Built:
    spec, fed = _spec_of(settings, task.channels)
    notes: tuple[str, ...] = ()
    if spec.fold_channels:
        notes = (f"The weights are of one channel: they see the {task.channels} channels of the image one by one",)
    backbone = create_backbone(spec)
    sha256 = backbone_sha256(backbone)

    import torch

    from fm3d_core.models.network import DenseNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = DenseNetwork(backbone, task.build_head(backbone, settings.head, linear=method.linear_head))
        method.apply(network)
    # modules that only train (LoRA's dropout, stochastic depth) act; a frozen backbone stays in evaluation mode
    network.train()
    if method.frozen_backbone:
        network.backbone.eval()
    return _Built(network, spec, sha256, fed, notes)


def _choose_weights(settings: FinetuneSettings, channels: int) -> tuple[str, str | None]:
    """Preset and hash; where the user says nothing of weights, those that come with the package for the backbone."""
    if settings.method == Scratch.name:
        return choose_weights(RANDOM, settings.backbone, channels)
    if settings.weights is None:
        shipped = shipped_for(settings.backbone or DEFAULT_BACKBONE)
        return choose_weights(shipped.id if shipped else None, settings.backbone, channels)
    return choose_weights(settings.weights, settings.backbone, channels)


def _notes_on_input(task: SegmentationTask, fed: NetworkInput | None) -> list[str]:
    """What was taken from the weights' pretraining, and what could not be."""
    if fed is None or task.preprocessing is None:
        return []
    low, high = fed.range
    notes = []
    if fed.spacing is not None:
        x, y, z = fed.spacing
        notes.append(f"Volumes are resampled to {x:g} x {y:g} x {z:g} mm, as in the pretraining of the weights")
    if task.preprocessing.window is not None:
        bottom, top = task.preprocessing.window
        notes.append(f"{bottom:g} to {top:g} HU become {low:g} to {high:g}, as in the pretraining of the weights")
    elif fed.window is not None:
        notes.append(f"The weights know CT, these volumes look otherwise: percentiles become {low:g} to {high:g}")
    return notes


def batch_source(
    network: DenseNetwork,
    method: Method,
    cases: Sequence[TrainingCase],
    window: Size,
    settings: FinetuneSettings,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> BatchSource:
    """What a method trains on: features computed once if the backbone stays untouched, else augmented crops.

    Raises:
        Stopped: ``should_stop`` said so while features were computed.
    """
    import torch

    from fm3d_core.adaptation.augmentation import Augmentation
    from fm3d_core.adaptation.batches import CropSource, FeatureSource

    generator = torch.Generator().manual_seed(settings.seed)
    if method.frozen_backbone and not network.runs_backbone:
        return FeatureSource(network, cases, window, generator, device, progress=progress, should_stop=should_stop)
    return CropSource(network, cases, window, settings.batch_size, generator, device, Augmentation())


def _card(task: SegmentationTask, settings: FinetuneSettings, built: _Built, window: Size) -> AdapterCard:
    return AdapterCard(
        task=task,
        method=settings.method,
        backbone=built.spec,
        backbone_sha256=built.sha256,
        head=settings.head,
        decoder=settings.decoder,
        bottleneck=settings.bottleneck,
        window=window,
        settings=settings.to_dict(),
        versions=library_versions(),
        created=now(),
    )


def _to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
