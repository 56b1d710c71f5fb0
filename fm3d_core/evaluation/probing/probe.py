"""The linear probe and the k-NN probe of a frozen backbone: trained, chosen on validation, measured on test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fm3d_core.errors import SettingsError
from fm3d_core.evaluation.probing.grid import LinearProbe, ProbeGrid, train_probes
from fm3d_core.evaluation.probing.neighbours import NEIGHBOURS, neighbour_answers
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks.metrics import selection_score

if TYPE_CHECKING:
    import torch

    from fm3d_core.evaluation.probing.vectors import ImageVectors
    from fm3d_core.tasks import WholeVolumeTask

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Images whose answers are known.

    Attributes:
        vectors: n of them.
        targets: (n, T), what the task's ``read_target`` gives.
    """

    vectors: ImageVectors
    targets: Numbers


@dataclass(frozen=True)
class TrainedProbe:
    """One setting of the grid.

    Attributes:
        probe: the head.
        validation: its figures on the validation images.
        score: what it is chosen by, higher for better; NaN where it cannot be measured.
    """

    probe: LinearProbe
    validation: dict[str, float]
    score: float


@dataclass(frozen=True)
class Probed:
    """All that was found.

    Attributes:
        task: with what it takes from the training images.
        scaled: whether features were standardised (those of pyramids are).
        probes: of all settings, best first.
        neighbours: k -> figures of the k-NN probe on the validation images; empty for survival.
        validation_answers: (n, classes) of the best probe for the validation images.
        answers: the same for the test images; None without.
        neighbour_answers: k -> the same of the k-NN probe.
    """

    task: WholeVolumeTask
    scaled: bool
    probes: tuple[TrainedProbe, ...]
    neighbours: dict[int, dict[str, float]]
    validation_answers: Numbers
    answers: Numbers | None
    neighbour_answers: dict[int, Numbers]

    @property
    def best(self) -> TrainedProbe:
        """The one that was chosen."""
        return self.probes[0]


def probe(
    task: WholeVolumeTask,
    training: Labelled,
    validation: Labelled,
    test: ImageVectors | None,
    grid: ProbeGrid,
    *,
    scale: bool = False,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Probed:
    """Train every setting, choose on the validation images, answer for the test images.

    Args:
        task: what is asked; what it takes from the training targets (:meth:`WholeVolumeTask.fit`) is taken here.
        training, validation: to learn from and to choose by.
        test: of which the best probe is asked at the end.
        grid: the settings; those that the features do not have (more layers, patch tokens) are left out.
        scale: whether each channel is standardised as it is in the training images.
        progress, should_stop: as of :func:`train_probes`.

    Raises:
        CaseError: nothing can be learned from the training targets.
        SettingsError: no setting of the grid fits the features.
        Stopped: ``should_stop`` said so.
    """
    import torch

    task = task.fit([tuple(row) for row in training.targets.tolist()])
    grid = fitting(grid, training.vectors)
    seen = training.vectors.scaled_like(training.vectors) if scale else training.vectors
    looked = validation.vectors.scaled_like(training.vectors) if scale else validation.vectors
    asked = test.scaled_like(training.vectors) if scale and test is not None else test
    targets = torch.from_numpy(training.targets).to(seen.layers[0])
    heads = train_probes(seen, targets, task.classes, task.loss(), grid, progress=progress, should_stop=should_stop)
    probes = []
    for head in heads:
        figures = _figures(task, task.activate(head.scores(looked)), validation.targets)
        probes.append(TrainedProbe(head, figures, selection_score(figures, task.selected_by)))
    probes.sort(key=lambda each: (math.isnan(each.score), -each.score))  # equal ones stay in the grid's order
    answers = None if asked is None else _numbers(task.activate(probes[0].probe.scores(asked)))
    known = Labelled(seen, training.targets)
    voted = {k: _votes(task, known, looked, k) for k in NEIGHBOURS} if _can_vote(task) else {}
    return Probed(
        task,
        scale,
        tuple(probes),
        {k: _figures(task, votes, validation.targets) for k, votes in voted.items()},
        _numbers(task.activate(probes[0].probe.scores(looked))),
        answers,
        {k: _numbers(_votes(task, known, asked, k)) for k in voted} if asked is not None else {},
    )


def fitting(grid: ProbeGrid, vectors: ImageVectors) -> ProbeGrid:
    """The settings of a grid that vectors have the features for.

    Raises:
        SettingsError: none.
    """
    layers = tuple(count for count in grid.layers if count <= len(vectors.layers))
    patch = grid.mean_patch if vectors.mean_patch is not None else tuple(each for each in grid.mean_patch if not each)
    if not layers or not patch:
        raise SettingsError(
            "the backbone has not the features that the grid asks for",
            remedy=f"It has {len(vectors.layers)} layers, and {'no ' * (vectors.mean_patch is None)}patch tokens",
        )
    return replace(grid, layers=layers, mean_patch=patch)


def _figures(task: WholeVolumeTask, activated: torch.Tensor, targets: Numbers) -> dict[str, float]:
    """Of a head that diverged all are NaN."""
    numbers = _numbers(activated)
    if not np.isfinite(numbers).all():
        return dict.fromkeys(task.measure(np.nan_to_num(numbers), targets), math.nan)
    return task.measure(numbers, targets)


def _can_vote(task: WholeVolumeTask) -> bool:
    """Whether answers may be averaged: a time that was censored may not."""
    return task.kind != "survival"


def _votes(task: WholeVolumeTask, training: Labelled, asked: ImageVectors, neighbours: int) -> torch.Tensor:
    """(n, classes) by the class tokens, or coarsest maps, of the last layer."""
    import torch

    known = torch.from_numpy(training.targets).float()
    if known.shape[1] != task.classes:  # the index of a class
        known = torch.nn.functional.one_hot(known[:, 0].long(), task.classes).float()
    return neighbour_answers(training.vectors.layers[-1], known, asked.layers[-1], neighbours)


def _numbers(values: torch.Tensor) -> Numbers:
    return values.detach().double().cpu().numpy()


def rows_of(probes: Sequence[TrainedProbe]) -> list[dict[str, Any]]:
    """All settings with their validation figures, as plain data; what could not be measured is null."""
    return [
        {
            "layers": each.probe.setting.layers,
            "mean_patch": each.probe.setting.mean_patch,
            "learning_rate": each.probe.setting.learning_rate,
            "validation": {name: None if math.isnan(value) else value for name, value in each.validation.items()},
        }
        for each in probes
    ]
