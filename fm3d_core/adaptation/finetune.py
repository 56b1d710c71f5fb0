"""From a few labelled volumes to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fm3d_core.adaptation.adapter import Adapter, AdapterCard, UsedCase, library_versions, now, trained_tensors
from fm3d_core.adaptation.cases import LabeledCase, load_cases, plan_preprocessing, prepare_cases
from fm3d_core.adaptation.methods import Method, check_method
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone, import_weights
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.batches import BatchSource
    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork


def finetune(
    cases: Sequence[LabeledCase],
    task: SegmentationTask,
    settings: FinetuneSettings,
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Adapter:
    """Learn ``task`` from ``cases``.

    Args:
        cases: images with labels; unusable ones are left out and named in the card.
        task: its preprocessing, if None, is planned from the cases.
        settings: method, backbone, budget, seed.
        progress: receives the stages "reading volumes", "preparing volumes", ["computing features",] "training".
        should_stop: asked at every step.

    Raises:
        FM3DError: a mistake in cases, settings or weights; see :mod:`fm3d_core.errors`.
        Stopped: ``should_stop`` said so; nothing is kept.
    """
    from fm3d_core.adaptation.batches import plan_crop
    from fm3d_core.adaptation.trainer import Budget, optimise
    from fm3d_core.devices import choose_device

    method = check_method(settings.method)
    device = choose_device(settings.device)
    network, spec, sha256 = _build(task, settings, method)
    loaded, refused = load_cases(cases, task, progress=progress, should_stop=should_stop)
    task = replace(task, preprocessing=task.preprocessing or plan_preprocessing(loaded))
    assert task.preprocessing is not None
    prepared = prepare_cases(loaded, task.preprocessing, progress=progress, should_stop=should_stop)

    network.to(device)
    window = plan_crop(prepared, network.backbone.size_multiple)
    source = _batches(network, method, prepared, window, settings, device, progress, should_stop)
    record = optimise(
        source,
        network.parameters(),
        task.loss(),
        Budget(settings.seconds, settings.steps),
        learning_rate=settings.learning_rate or method.learning_rate,
        device=device,
        progress=progress,
        should_stop=should_stop,
    )
    card = _card(task, settings, spec, sha256, window)
    card = replace(
        card,
        cases=tuple(UsedCase(case.name, case.image_sha256, case.label_sha256) for case in loaded),
        training={"steps": record.steps, "seconds": round(record.seconds, 2), "loss": round(record.loss, 5)},
        left_out=tuple(refused),
    )
    return Adapter(card, _to_cpu(trained_tensors(network)))


def untrained_adapter(task: SegmentationTask, settings: FinetuneSettings) -> Adapter:
    """The same network before any training: the honest "before" of a comparison.

    Raises:
        FM3DError: a mistake in settings or weights.
    """
    method = check_method(settings.method)
    network, spec, sha256 = _build(task, settings, method)
    task = replace(task, preprocessing=task.preprocessing or Preprocessing())
    return Adapter(_card(task, settings, spec, sha256, (64, 64, 64)), _to_cpu(trained_tensors(network)))


def _build(
    task: SegmentationTask, settings: FinetuneSettings, method: Method
) -> tuple[DenseNetwork, BackboneSpec, str]:
    """The network ready to train, what rebuilds its backbone, and the backbone's identity."""
    weights = import_weights(settings.weights, settings.backbone, task.channels) if settings.weights else None
    spec = BackboneSpec(settings.backbone, task.channels, settings.seed, weights)
    backbone = create_backbone(spec)
    sha256 = backbone_sha256(backbone)

    import torch

    from fm3d_core.models.network import DenseNetwork

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = DenseNetwork(backbone, task.build_head(backbone, linear=method.linear_head))
        method.apply(network)
    # modules that only train (LoRA's dropout, stochastic depth) act; a frozen backbone stays in evaluation mode
    network.train()
    if method.frozen_backbone:
        network.backbone.eval()
    return network, spec, sha256


def _batches(
    network: DenseNetwork,
    method: Method,
    cases: Sequence[TrainingCase],
    window: Size,
    settings: FinetuneSettings,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> BatchSource:
    import torch

    from fm3d_core.adaptation.augmentation import Augmentation
    from fm3d_core.adaptation.batches import CropSource, FeatureSource

    generator = torch.Generator().manual_seed(settings.seed)
    if method.frozen_backbone:
        return FeatureSource(network, cases, window, generator, device, progress=progress, should_stop=should_stop)
    return CropSource(network, cases, window, settings.batch_size, generator, device, Augmentation())


def _card(
    task: SegmentationTask, settings: FinetuneSettings, spec: BackboneSpec, sha256: str, window: Size
) -> AdapterCard:
    return AdapterCard(
        task=task,
        method=settings.method,
        backbone=spec,
        backbone_sha256=sha256,
        window=window,
        settings=settings.to_dict(),
        versions=library_versions(),
        created=now(),
    )


def _to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
