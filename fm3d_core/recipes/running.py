"""A recipe run on a list of cases: training, selection by validation cases, figures on test cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from fm3d_core.adaptation import Adapter, ImageCase, LabeledCase
from fm3d_core.adaptation.building import spec_of
from fm3d_core.adaptation.selection import Selection
from fm3d_core.devices import choose_device
from fm3d_core.errors import CaseError
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.recipes.cases import chosen, usable
from fm3d_core.recipes.measuring import Measure, image_figures, image_measure, voxel_figures, voxel_measure
from fm3d_core.tasks import WholeVolumeTask

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.finetune import Select
    from fm3d_core.adaptation.settings import FinetuneSettings
    from fm3d_core.adaptation.training_set import TrainingSet
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.recipes.own import ListTraining
    from fm3d_core.recipes.recipe import Validation
    from fm3d_core.volumes import DataList


@dataclass(frozen=True)
class RecipeRun:
    """What came of a recipe.

    Attributes:
        adapters: one, or one per fold.
        folds: held out by each; empty without folds.
        left_out: cases that could not be used, with the reason.
        test: figures on the test cases, of the mean over the folds; empty if the list has none with known answers.
    """

    adapters: tuple[Adapter, ...]
    folds: tuple[int, ...]
    left_out: tuple[str, ...]
    test: dict[str, float]


def run_recipe(
    recipe: ListTraining,
    listed: DataList,
    *,
    fraction: float | None = None,
    folds: Sequence[int] = (),
    seed: int = 0,
    given: dict[str, Any] | None = None,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
    on_adapter: Callable[[Adapter], None] = lambda adapter: None,
    keep_when_stopped: bool = False,
) -> RecipeRun:
    """Train as a recipe says.

    Args:
        recipe: what to do, or a training of one's own.
        listed: the cases.
        fraction: share of the training cases that is used; None: all.
        folds: trained one after the other, each held out as validation; empty: the list's validation cases are.
        seed: of weights, crops, draws.
        given: further :class:`FinetuneSettings` that go before the recipe's, such as ``device`` and ``steps``.
        progress: receives the stages of each training, and "testing".
        should_stop: asked at every step and case. With validation cases, being stopped in training keeps the best
            weights so far, and what comes after is left out.
        on_adapter: receives each adapter when it is there.
        keep_when_stopped: whether a training without validation cases that is stopped keeps what it had learned, once
            it has got somewhere.

    Raises:
        FM3DError: a mistake in recipe, list or weights.
        Stopped: before anything was learned that can be kept.
    """
    settings = {"seed": seed, **(given or {})}
    choose_device(str(settings.get("device", "auto")))
    spec_of(recipe.settings(1, **settings), recipe.built_task().channels)  # missing weights are told before reading
    adapters: list[Adapter] = []
    left_out: list[str] = []
    for fold in folds or (None,):
        part = chosen(recipe, listed, fraction=fraction, fold=fold, seed=seed)
        if not part.training:
            raise CaseError("has no training case", path=listed.path, remedy="Add some under training")
        cases, refused = usable(recipe, part.training)
        validation, others = usable(recipe, part.validation)
        left_out += [each for each in (*refused, *others) if each not in left_out]
        run = recipe.settings(len(cases), **settings)
        adapter = _trained(recipe, cases, validation, run, keep_when_stopped, progress, should_stop)
        adapter = _noted(adapter, recipe, fraction, fold)
        adapters.append(adapter)
        on_adapter(adapter)
        if should_stop():
            return RecipeRun(tuple(adapters), tuple(folds[: len(adapters)]), tuple(left_out), {})
    test = _tested(recipe, listed, adapters, str(settings.get("device", "auto")), progress, should_stop)
    return RecipeRun(tuple(adapters), tuple(folds), tuple(left_out), test)


def _trained(
    recipe: ListTraining,
    cases: Sequence[LabeledCase] | Sequence[ImageCase],
    validation: Sequence[LabeledCase] | Sequence[ImageCase],
    settings: FinetuneSettings,
    keep_when_stopped: bool,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> Adapter:
    from fm3d_core.adaptation.finetune import train
    from fm3d_core.adaptation.finetune_images import check_settings, train_images
    from fm3d_core.adaptation.image_cases import prepare_images, read_image_set
    from fm3d_core.adaptation.training_set import read_training_set

    task, plan, device = recipe.built_task(), recipe.plan(), choose_device(settings.device)
    fed = spec_of(settings, task.channels)[1]
    select: Select | None = None
    if isinstance(task, WholeVolumeTask):
        check_settings(settings)
        described = cast("Sequence[ImageCase]", cases)
        images = read_image_set(described, task, fed, progress=progress, should_stop=should_stop)
        if validation and recipe.validation is not None:
            to_hold = cast("Sequence[ImageCase]", validation)
            held = prepare_images(to_hold, images.task, progress=progress, should_stop=should_stop)
            frozen = settings.chosen_method().frozen_backbone
            assert images.task.crop is not None  # reading has planned it
            select = _select(
                recipe.validation, image_measure(images.task, held, images.task.crop, device, frozen=frozen)
            )
        return train_images(
            images,
            settings,
            plan=plan,
            select=select,
            progress=progress,
            should_stop=should_stop,
            keep_when_stopped=keep_when_stopped,
        )
    labelled = cast("Sequence[LabeledCase]", cases)
    data = read_training_set(labelled, recipe.dense_task(), fed, progress=progress, should_stop=should_stop)
    if validation and recipe.validation is not None:
        to_look = cast("Sequence[LabeledCase]", validation)
        select = _voxel_select(recipe.validation, plan.crop, data, to_look, device, progress, should_stop)
    return train(
        data,
        settings,
        plan=plan,
        select=select,
        progress=progress,
        should_stop=should_stop,
        keep_when_stopped=keep_when_stopped,
    )


def _voxel_select(
    how: Validation,
    crop: Size | None,
    data: TrainingSet,
    validation: Sequence[LabeledCase],
    device: torch.device,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> Select:
    """By the sliding window on validation cases, with the window of training."""
    from fm3d_core.adaptation.batches import plan_crop
    from fm3d_core.adaptation.cases import load_cases, prepare_cases

    dense = data.task
    loaded, _ = load_cases(validation, dense, progress=progress, should_stop=should_stop, complete=False)
    assert dense.preprocessing is not None
    prepared = prepare_cases(loaded, dense.preprocessing, progress=progress, should_stop=should_stop)

    def select(network: DenseNetwork) -> Selection:
        window = crop or plan_crop(data.prepared, network.size_multiple)
        return _select(how, voxel_measure(dense, prepared, window, how.overlap, device))(network)

    return select


def _select(how: Validation, measure: Measure) -> Select:
    def select(network: DenseNetwork) -> Selection:
        return Selection(network, measure, how.selected_by, how.every)

    return select


def _noted(adapter: Adapter, recipe: ListTraining, fraction: float | None, fold: int | None) -> Adapter:
    """The adapter with what it was trained by."""
    said = {
        **recipe.noted(),
        "test_flips": recipe.test.flips,
        "overlap": recipe.test.overlap,
        "fraction": fraction,
        "fold": fold,
    }
    return replace(adapter, card=replace(adapter.card, settings={**adapter.card.settings, **said}))


def _tested(
    recipe: ListTraining,
    listed: DataList,
    adapters: Sequence[Adapter],
    device: str,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> dict[str, float]:
    """Figures on the list's test cases of which the answer is known; none if there are none."""
    try:
        cases, _ = usable(recipe, listed.test)
    except CaseError:  # no answers in the list: cases of a challenge
        return {}
    if not cases:
        return {}
    if adapters[0].card.task.whole_volume:
        images = cast("Sequence[ImageCase]", cases)
        return image_figures(adapters, images, device, progress=progress, should_stop=should_stop)
    labelled = cast("Sequence[LabeledCase]", cases)
    return voxel_figures(adapters, labelled, recipe.test.overlap, device, progress=progress, should_stop=should_stop)
