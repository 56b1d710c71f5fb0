"""A linear head that begins with what the weights know: rows of their own classifier, for structures known by name.

FSEFT begins so (Silva-Rodriguez et al. 2025): the row of a known structure is copied, others are random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fm3d_core.models.weights.known_head import BACKGROUND, KnownHead, head_of
from fm3d_core.models.weights.store import weights_folder
from fm3d_core.volumes.structure_names import canonical_name

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.closed_form import Solution
    from fm3d_core.models.heads import LinearHead
    from fm3d_core.models.zoo import BackboneSpec
    from fm3d_core.tasks import SegmentationTask

Rows = dict[int, tuple["torch.Tensor", float]]  # class -> weights on the finest map (C,), bias


def row_of(head: KnownHead, name: str) -> int | None:
    """The row of a structure, whichever of its names is given; None if the classifier does not know it."""
    wanted = canonical_name(name)
    names = [canonical_name(known) for known in head.classes]
    return names.index(wanted) if wanted in names else None


def known_rows(task: SegmentationTask, spec: BackboneSpec) -> Rows:
    """The rows of the task's classes that the weights know, with that of background; none if they know no structure.

    A classifier of sigmoids says yes above 0, so that its background is 0 everywhere.

    Raises:
        WeightsError: their classifier is damaged.
    """
    import torch

    head = None if spec.weights is None or spec.fold_channels else head_of(spec.weights, weights_folder())
    if head is None:
        return {}
    found = {value: row for name, value in task.values.items() if (row := row_of(head, name)) is not None}
    rows: Rows = {value: (head.weight[row], float(head.bias[row])) for value, row in found.items()}
    if not rows:
        return {}
    background = head.classes.index(BACKGROUND) if BACKGROUND in head.classes else None
    nothing = torch.zeros(head.weight.shape[1]), 0.0
    return {0: nothing if background is None else (head.weight[background], float(head.bias[background])), **rows}


def known_solution(rows: Rows, classes: int, channels: int) -> Solution | None:
    """The rows as the solution of a regression that was never made; None unless every class is known.

    Args:
        rows: of :func:`known_rows`.
        classes: of the task.
        channels: of all maps of the backbone together; the finest comes first.
    """
    import torch

    from fm3d_core.adaptation.closed_form import Solution

    if set(rows) != set(range(classes)):
        return None
    weight, bias = torch.zeros(channels, classes), torch.zeros(classes)
    for value, (slopes, constant) in rows.items():
        weight[: len(slopes), value] = slopes
        bias[value] = constant
    return Solution(weight, bias)


def begin_with(rows: Rows, head: LinearHead) -> None:
    """Give a head the known rows, in place; the rows of other classes stay as they are."""
    import torch

    finest = head.classifiers[0]
    assert isinstance(finest, torch.nn.Conv3d) and finest.bias is not None
    with torch.no_grad():
        for value, (slopes, constant) in rows.items():
            for classifier in head.classifiers:
                classifier.weight[value] = 0  # type: ignore[operator]
            finest.weight[value, :, 0, 0, 0] = slopes
            finest.bias[value] = constant
