"""Figures of a network on cases: while it trains, and of its adapters at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.adaptation import Adapter, ImageCase, LabeledCase
from fm3d_core.inference import ImagePredictor, Predictor
from fm3d_core.progress import ProgressCallback, ShouldStop, StageClock, ignore_progress, never_stop
from fm3d_core.tasks import DenseTask, JointTask, RegionsTask, WholeVolumeTask
from fm3d_core.tasks.metrics import mean_known
from fm3d_core.volumes import Volume, read_channels

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.adaptation.image_cases import PreparedImage
    from fm3d_core.models.backbone import Size
    from fm3d_core.models.network import DenseNetwork

Masks = npt.NDArray[np.bool_]
Measure = Callable[["DenseNetwork"], Mapping[str, float]]


def voxel_measure(
    task: DenseTask, cases: Sequence[TrainingCase], window: Size, overlap: float, device: torch.device
) -> Measure:
    """A measure of networks in training: mean Dice on prepared cases, of a joint task its classes too.

    Args:
        task: what is asked.
        cases: prepared as in training.
        window, overlap: of the sliding window.
        device: where the network is.
    """

    def measure(network: DenseNetwork) -> dict[str, float]:
        from fm3d_core.inference.joint_class import joint_class
        from fm3d_core.inference.sliding_window import sliding_window_scores

        dice: list[list[float]] = []
        classes, targets = [], []
        for case in cases:
            scores = sliding_window_scores(
                network,
                case.image,
                window,
                device,
                progress=ignore_progress,
                should_stop=never_stop,
                overlap=overlap,
                spacing=case.spacing,
            )
            said = _masks_of_scores(task, scores)
            dice.append(dice_of(said, _masks_of_label(task, case.label[0].numpy())))
            if isinstance(task, JointTask):
                found = joint_class(network, case.image, scores.argmax(0), window, case.spacing, device)
                classes.append(found.tolist())
                targets.append(case.target)
        figures = {"dice": mean_dice(dice)}
        if isinstance(task, JointTask):
            figures |= task.classification.measure(np.array(classes), np.array(targets))
        return figures

    return measure


def image_measure(
    task: WholeVolumeTask, cases: Sequence[PreparedImage], crop: Size, device: torch.device, *, frozen: bool
) -> Measure:
    """A measure of networks in training: the task's own figures on prepared cases.

    Args:
        task: with what it has learned from the training targets.
        cases: prepared as in training.
        crop: voxels of the middle that is looked at.
        device: where the network is.
        frozen: whether the backbone stays as it is, so that its maps are computed once.
    """
    kept: list[list[torch.Tensor]] = []

    def measure(network: DenseNetwork) -> dict[str, float]:
        import torch

        from fm3d_core.adaptation.image_batches import maps_of_middles
        from fm3d_core.inference.image_predictor import image_answers

        if frozen and not kept:
            kept.extend(maps_of_middles(network, cases, crop, device, progress=ignore_progress, should_stop=never_stop))
        answers = []
        for index, case in enumerate(cases):
            if frozen:
                with torch.inference_mode():
                    scores = network.head([each.float() for each in kept[index]], None)
                answers.append(task.activate(scores.float())[0].cpu())
            else:
                answers.append(image_answers(network, task, case.image, crop, case.spacing, device))
        return task.measure(torch.stack(answers).double().numpy(), np.array([case.target for case in cases]))

    return measure


def image_figures(
    adapters: Sequence[Adapter],
    cases: Sequence[ImageCase],
    device: str,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> dict[str, float]:
    """The task's figures of the mean of some adapters' answers on cases that they did not see.

    Raises:
        FM3DError: a case that cannot be used.
        Stopped: ``should_stop`` said so.
    """
    predictor, clock, answers = ImagePredictor(adapters, device), StageClock("testing", len(cases), progress), []
    for done, case in enumerate(cases):
        clock.report(done)
        volume = read_channels(case.images, predictor.task.channels)
        answers.append(predictor.activated(volume, should_stop=should_stop))
    clock.report(len(cases))
    return predictor.task.measure(np.array(answers), np.array([case.target for case in cases]))


def voxel_figures(
    adapters: Sequence[Adapter],
    cases: Sequence[LabeledCase],
    overlap: float,
    device: str,
    *,
    progress: ProgressCallback,
    should_stop: ShouldStop,
) -> dict[str, float]:
    """Mean Dice, and that of each structure, on the images' own grids; of several adapters the mean of their figures.

    Of a joint task its classes' figures too.

    Raises:
        FM3DError: a case that cannot be used.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.cases import load_cases

    each: list[dict[str, float]] = []
    for adapter in adapters:
        predictor = Predictor(adapter, device, views=1, overlap=overlap, keep_islands=True)
        task: Any = predictor.card.task
        loaded, _ = load_cases(cases, task, progress=progress, should_stop=should_stop, complete=False)
        clock, dice = StageClock("testing", len(loaded), progress), []
        classes, targets = [], []
        for done, case in enumerate(loaded):
            clock.report(done)
            if isinstance(task, JointTask):
                label, answer = predictor.classify(case.image, should_stop=should_stop)
                classes.append(list(answer["probabilities"].values()))
                targets.append(case.target)
                said = _masks_of_label(task, label)
            else:
                said = _segmented(predictor, case.image, should_stop)
            dice.append(dice_of(said, _masks_of_label(task, case.label.array)))
        clock.report(len(loaded))
        figures = {"dice": mean_dice(dice)}
        figures |= {f"dice {name}": mean_known([row[i] for row in dice]) for i, name in enumerate(task.labels)}
        if isinstance(task, JointTask):
            figures |= task.classification.measure(np.array(classes), np.array(targets))
        each.append(figures)
    return {name: mean_known([figures[name] for figures in each]) for name in each[0]}


def dice_of(said: Masks, truth: Masks) -> list[float]:
    """Dice of each mask (n, X, Y, Z); NaN where it is empty in both."""
    both = (said & truth).sum((1, 2, 3))
    total = said.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return [2 * float(one) / float(of) if of else float("nan") for one, of in zip(both, total, strict=True)]


def mean_dice(rows: Sequence[Sequence[float]]) -> float:
    """The mean over structures of the mean over cases, each of what is known."""
    return mean_known([mean_known(column) for column in zip(*rows, strict=True)])


def _segmented(predictor: Predictor, volume: Volume, should_stop: ShouldStop) -> Masks:
    task: Any = predictor.card.task
    if isinstance(task, RegionsTask):
        return predictor.segment_regions(volume, should_stop=should_stop)
    return _masks_of_label(task, predictor.segment(volume, should_stop=should_stop))


def _masks_of_scores(task: DenseTask, scores: torch.Tensor) -> Masks:
    if not task.exclusive:
        masks: Masks = (scores > 0).numpy()
        return masks
    return _masks_of_label(task, scores.argmax(0).numpy())


def _masks_of_label(task: DenseTask, label: npt.NDArray[Any]) -> Masks:
    """A label map in the task's order as masks of its structures or regions (n, X, Y, Z)."""
    if isinstance(task, RegionsTask):
        table = np.zeros((256, task.classes), bool)
        membership = task.membership()
        table[: len(membership)] = membership
        masks: Masks = np.moveaxis(table[label], -1, 0)
        return masks
    return np.stack([label == value for value in range(1, len(task.labels) + 1)])
