"""The reverse check: is what was segmented in a new volume a good teacher for the labelled ones?

Reverse classification accuracy (Valindria et al. 2017): a classifier learns from the new volume with its predicted mask
as truth, and is scored on volumes whose truth is known. A wrong mask teaches the wrong thing. The classifier here is a
ridge regression on the plain backbone's features of some voxels, which takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fm3d_core.inference.frozen_features import frozen_pass
from fm3d_core.progress import ProgressCallback, ShouldStop, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask

if TYPE_CHECKING:
    from fm3d_core.adaptation import LabeledCase
    from fm3d_core.adaptation.closed_form import Solution, Voxels
    from fm3d_core.inference.predictor import Predictor

RIDGE, BALANCE = 1e-2, 0.5  # see fm3d_core.adaptation.closed_form.solve


@dataclass(frozen=True)
class References:
    """Labelled volumes that predictions are checked against.

    Attributes:
        voxels: case -> features and true classes of some of its voxels, about a megabyte.
        attainable: structure -> the Dice that a regression learned from one reference reaches on the best of the
            others (of a single reference: on itself), at most; what the check is measured by.
    """

    voxels: dict[str, Voxels]
    attainable: dict[str, float]


def references_of(
    predictor: Predictor,
    cases: Sequence[LabeledCase],
    *,
    progress: ProgressCallback = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> References | None:
    """Make labelled volumes ready for :func:`reverse_check`, once for many predictions.

    Args:
        predictor: of the adapter whose predictions are checked.
        cases: labelled volumes, for example those it has learned from.
        progress: receives the stages "reading volumes", "preparing volumes", "features of the labelled volumes".
        should_stop: asked at every window.

    Returns:
        None where the adapter has no linear head that its training began with, and so no plain backbone to check with.

    Raises:
        FM3DError: none of the cases can be used.
        Stopped: ``should_stop`` said so.
    """
    from fm3d_core.adaptation.cases import load_cases, prepare_cases

    network, task = predictor.first_network, predictor.card.task
    if network is None:
        return None
    assert task.preprocessing is not None and isinstance(task, SegmentationTask)  # as a linear first head says
    loaded, _ = load_cases(cases, task, progress=progress, should_stop=should_stop)
    prepared = prepare_cases(loaded, task.preprocessing, progress=progress, should_stop=should_stop)
    voxels = {}
    for case in prepared:
        done = frozen_pass(
            network,
            case.image,
            case.label[0],
            predictor.card.window,
            case.spacing,
            predictor.device,
            progress=progress,
            should_stop=should_stop,
            stage="features of the labelled volumes",
        )
        voxels[case.name] = done.voxels
    return References(voxels, _attainable(voxels, task.values))


def reverse_check(voxels: Voxels, references: References, values: dict[str, int]) -> dict[str, float]:
    """Structure -> how well the predicted mask teaches it, 1: as well as a true one; structures not predicted have 0.

    Args:
        voxels: of the new volume, with their predicted classes.
        references: labelled volumes.
        values: structure -> class.
    """
    reached = _best(voxels, list(references.voxels.values()), values)
    known = {name: best for name, best in references.attainable.items() if best > 0}
    return {name: min(reached.get(name, 0.0) / best, 1.5) for name, best in known.items()}


def _attainable(voxels: dict[str, Voxels], values: dict[str, int]) -> dict[str, float]:
    best: dict[str, float] = {}
    for name, own in voxels.items():
        others = [other for case, other in voxels.items() if case != name] or [own]
        for structure, dice in _best(own, others, values).items():
            best[structure] = max(best.get(structure, 0.0), dice)
    return best


def _best(taught_by: Voxels, others: Sequence[Voxels], values: dict[str, int]) -> dict[str, float]:
    """Structure -> Dice of what ``taught_by`` teaches on the other volume where it does best."""
    from fm3d_core.adaptation.closed_form import solve

    classes = 1 + max(values.values())
    solution = solve(taught_by, classes, RIDGE, BALANCE)
    best: dict[str, float] = {}
    for other in others:
        for name, dice in _dice(solution, other, values).items():
            best[name] = max(best.get(name, 0.0), dice)
    return best


def _dice(solution: Solution, voxels: Voxels, values: dict[str, int]) -> dict[str, float]:
    """Structure -> Dice in a volume that has it, each voxel counting for those it stands for."""
    found = solution.logits(voxels).argmax(1)
    scores = {}
    for name, value in values.items():
        own, true = found == value, voxels.labels == value
        if bool(true.any()):
            total = voxels.share[own].sum() + voxels.share[true].sum()
            scores[name] = float(2 * voxels.share[own & true].sum() / total)
    return scores
