"""From a few labelled volumes to an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fm3d_core.adaptation.adapter import (
    AS_PROBE,
    Adapter,
    AdapterCard,
    UsedCase,
    in_half,
    library_versions,
    now,
    trained_tensors,
)
from fm3d_core.adaptation.building import Built, build, spec_of
from fm3d_core.adaptation.cases import LabeledCase
from fm3d_core.adaptation.connected import connected_structures
from fm3d_core.adaptation.memory import Halvable, or_on_processor, told_in_words
from fm3d_core.adaptation.methods import Method, NoTraining
from fm3d_core.adaptation.methods.base import AfterStep
from fm3d_core.adaptation.methods.parts import is_plain_probe
from fm3d_core.adaptation.plan import FEW_SHOT, TrainingPlan
from fm3d_core.adaptation.selection import Selection
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.adaptation.size_prior import measured_sizes
from fm3d_core.adaptation.training_set import TrainingSet, read_training_set
from fm3d_core.adaptation.warm_start import go_on_from, knows_all
from fm3d_core.clocks import Stopwatch
from fm3d_core.devices import choose_device
from fm3d_core.errors import SettingsError
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.batches import BatchSource, VoxelSource
    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.adaptation.feature_cache import FeatureCache, WindowFeatures
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.tasks import DenseTask, Task

StageCallback = Callable[[Adapter], None]
CUT_SHORT = "cut_short"  # the stage of an adapter whose training was stopped
Select = Callable[["DenseNetwork"], Selection]


def ignore_stage(adapter: Adapter) -> None:
    """The callback of a caller who waits for the last stage."""


def finetune(
    cases: Sequence[LabeledCase],
    task: DenseTask,
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

        if not isinstance(task, SegmentationTask):
            raise SettingsError("method none knows structures by name only", remedy="Choose another method")
        return require_zero_shot(task, settings)
    choose_device(settings.device)  # says what is wrong with it before any volume is read
    fed = spec_of(settings, task.channels)[1]
    data = read_training_set(cases, task, fed, progress=progress, should_stop=should_stop)
    return train(data, settings, progress=progress, should_stop=should_stop, on_stage=on_stage)


@or_on_processor
@told_in_words
def train(
    data: TrainingSet,
    settings: FinetuneSettings,
    *,
    start: Adapter | None = None,
    probe: Adapter | None = None,
    cache: FeatureCache | None = None,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # immutable
    select: Select | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    on_stage: StageCallback = ignore_stage,
    keep_when_stopped: bool = False,
) -> Adapter:
    """Learn from cases that were read already; see :func:`finetune`.

    Args:
        data: the cases.
        settings: method, backbone, budget, seed.
        start: an adapter that fits (:func:`fm3d_core.adaptation.warm_start.why_not`), from which training goes on.
        probe: a linear probe of the same backbone and task, whose head a linear head begins with; None solves for it.
        cache: where features of the frozen backbone are kept from one training to the next.
        plan: what a recipe fixes besides the settings.
        select: makes the choice of the best weights by validation cases; None: the last weights are taken.
        progress, should_stop, on_stage: as of :func:`finetune`.
        keep_when_stopped: once training has got somewhere, a stop gives what was learned until then; its card's stage
            is :data:`CUT_SHORT`.

    Raises:
        FM3DError: a mistake in settings or weights.
        Stopped: ``should_stop`` said so; nothing is kept.
    """
    from fm3d_core.adaptation.batches import plan_crop
    from fm3d_core.adaptation.closed_form import can_be_solved, linear_part, solve_head

    method, task = settings.chosen_method(), data.task
    device = choose_device(settings.device)
    built = build(task, settings, method)
    network = built.network
    assert task.preprocessing is not None  # a training set has planned it
    network.input_range = task.preprocessing.input_range
    network.to(device)
    planned = plan.crop or plan_crop(data.prepared, network.size_multiple)
    window = start.card.window if start is not None else planned
    watch = Stopwatch(settings.clock)
    kept = cache.of(built.sha256, device) if cache is not None else None
    source = batch_source(network, method, data.prepared, window, settings, device, progress, should_stop, kept, plan)
    card = card_of_training(data, settings, built, window)
    known = start is not None and knows_all(start, task)
    probed = {name.removeprefix("head."): tensor for name, tensor in probe.tensors.items()} if probe is not None else {}
    first_head = dict(start.first_head) if start is not None and known else probed
    if settings.closed_form and can_be_solved(network) and not known and isinstance(task, SegmentationTask):
        head, plain = linear_part(network.head), "new" not in (settings.decoder, settings.bottleneck)
        if probed and plain:
            head.load_state_dict(probed)
        else:
            solve_head(network, source, settings.seed, known=built.known, progress=progress, should_stop=should_stop)
        if plain:
            first_head = _to_cpu(head.state_dict())
        if not method.frozen_backbone and is_plain_probe(network, settings.decoder, settings.bottleneck):
            on_stage(linear_head(card, network, watch.elapsed))
    if start is not None:
        go_on_from(start, network, task, settings.head, linear=method.linear_head)
    return finished(
        card,
        network,
        source,
        method,
        settings,
        plan,
        select,
        watch,
        device,
        progress,
        should_stop,
        first_head,
        keep_when_stopped,
    )


def finished(
    card: AdapterCard,
    network: DenseNetwork,
    source: BatchSource,
    method: Method,
    settings: FinetuneSettings,
    plan: TrainingPlan,
    select: Select | None,
    watch: Stopwatch,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
    first_head: dict[str, torch.Tensor] | None = None,
    keep_when_stopped: bool = False,
) -> Adapter:
    """Train a network that is built, and make the adapter of it.

    Raises:
        Stopped: ``should_stop`` said so before anything was learned that can be kept.
    """
    import torch

    from fm3d_core.adaptation.trainer import Budget, optimise

    selection = select(network) if select is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # of modules that only train: dropout, stochastic depth
        record = optimise(
            source,
            network.parameters(),
            card.task.loss(),
            Budget(max(settings.seconds - watch.elapsed, 1.0), settings.steps, settings.clock, settings.until_plateau),
            learning_rate=settings.chosen_learning_rate(),
            device=device,
            progress=progress,
            should_stop=should_stop,
            schedule=plan.schedule,
            selection=selection,
            after_step=partial(method.after_step, network) if isinstance(method, AfterStep) else None,
            keep_when_stopped=keep_when_stopped,
            optimiser=settings.chosen_optimiser(),
        )
    training = {"steps": record.steps, "seconds": round(record.seconds, 2), "loss": round(record.loss, 5)}
    notes = [*card.notes, *record.notes]
    if record.plateau:
        notes.append(f"Training ended after {record.seconds:.0f} of {settings.seconds:g} s: the loss no longer fell")
    if selection is not None:
        figures = {f"validation_{name}": round(value, 5) for name, value in selection.best.items()}
        training |= {"best_step": selection.step, **{name: value for name, value in figures.items() if value == value}}
    if record.stopped:
        notes.append(f"Training was cancelled after {record.steps} steps; this is what it had learned until then")
    if isinstance(source, Halvable):
        card = replace(card, window=source.crop)  # a shortage of memory may have halved it
    card = replace(card, training=training, stage=CUT_SHORT if record.stopped else "final", notes=tuple(notes))
    return Adapter(card, in_half(_to_cpu(trained_tensors(network))), first_head or {})


def card_of_training(data: TrainingSet, settings: FinetuneSettings, built: Built, window: Size) -> AdapterCard:
    """The card of what comes out, before anything has."""
    used = tuple(
        UsedCase(case.name, case.image_sha256, case.label_sha256, case.annotation.to_dict(), case.voxels_sha256)
        for case in data.loaded
    )
    return replace(
        new_card(data.task, settings, built, window),
        cases=used,
        left_out=data.left_out,
        notes=(*built.notes, *data.notes),
        sizes=measured_sizes(data.loaded, data.task),
        connected=connected_structures(data.loaded, data.task),
    )


def linear_head(card: AdapterCard, network: DenseNetwork, seconds: float) -> Adapter:
    """What the ridge regression found, on the backbone as it was: a linear probe, and it is stored as one."""
    tensors = {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
    training = {"steps": 0, "seconds": round(seconds, 2)}
    probe = replace(card, **AS_PROBE)
    return Adapter(replace(probe, training=training, stage="linear_probe", created=now()), _to_cpu(tensors))


def untrained_adapter(task: SegmentationTask, settings: FinetuneSettings) -> Adapter:
    """The same network before any training: the honest "before" of a comparison.

    Raises:
        FM3DError: a mistake in settings or weights.
    """
    method = settings.chosen_method()
    built = build(task, settings, method)
    task = replace(task, preprocessing=task.preprocessing or Preprocessing())
    card = replace(new_card(task, settings, built, (64, 64, 64)), notes=built.notes)
    return Adapter(card, _to_cpu(trained_tensors(built.network)))


def batch_source(
    network: DenseNetwork,
    method: Method,
    cases: Sequence[TrainingCase],
    window: Size,
    settings: FinetuneSettings,
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
    cache: WindowFeatures | None = None,
    plan: TrainingPlan = TrainingPlan(),  # noqa: B008  # immutable
) -> VoxelSource:
    """What a method trains on: features computed once if the backbone stays untouched, else augmented crops.

    Features come from ``cache`` where they were computed before.

    Raises:
        SettingsError: a single crop in a step of a joint task.
        Stopped: ``should_stop`` said so while features were computed.
    """
    import torch

    from fm3d_core.adaptation.augmentation import Augmentation
    from fm3d_core.adaptation.batches import CropSource, FeatureSource
    from fm3d_core.adaptation.published_augmentation import published
    from fm3d_core.models.image_heads import JointNetwork

    if isinstance(network, JointNetwork) and settings.batch_size * plan.sampling.crops_per_volume < 2:
        raise SettingsError(
            "a step has one crop, but the batch norm of the volume's head compares several",
            remedy="Choose a batch_size of 2 or more",
        )

    generator = torch.Generator().manual_seed(settings.seed)
    # a joint task's image head compares several volumes in a step, whose windows differ in size
    if method.frozen_backbone and not network.runs_backbone and not isinstance(network, JointNetwork):
        return FeatureSource(
            network, cases, window, generator, device, progress=progress, should_stop=should_stop, cache=cache
        )
    own = Augmentation() if plan.augmentation == FEW_SHOT else None
    change = published(plan.augmentation, window, labelled=True, seed=settings.seed)
    fewest = 2 if isinstance(network, JointNetwork) else 1
    return CropSource(
        network, cases, window, settings.batch_size, generator, device, own, plan.sampling, change, fewest
    )


def new_card(task: Task, settings: FinetuneSettings, built: Built, window: Size) -> AdapterCard:
    """The card of a training that has not begun: settings, network and versions, no cases and no results.

    Settings that were left to the method stand there as what they came to be.
    """
    chosen = {"optimiser": settings.chosen_optimiser(), "learning_rate": settings.chosen_learning_rate()}
    return AdapterCard(
        task=task,
        method=settings.method,
        backbone=built.spec,
        backbone_sha256=built.sha256,
        head=settings.head,
        decoder=settings.decoder,
        bottleneck=settings.bottleneck,
        rank=settings.rank,
        alpha=settings.alpha,
        window=window,
        settings=settings.to_dict() | chosen,
        versions=library_versions(),
        created=now(),
    )


def _to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
