"""A list's cases as a recipe's task learns them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from fm3d_core.adaptation import ImageCase, LabeledCase
from fm3d_core.errors import CaseError, FM3DError
from fm3d_core.recipes.own import ListTraining
from fm3d_core.tasks import JointTask, WholeVolumeTask
from fm3d_core.volumes import DataList, ListedCase

logger = logging.getLogger(__name__)


def dense_case(recipe: ListTraining, case: ListedCase) -> LabeledCase:
    """A case of a task about voxels; its field "label_values" (structure -> voxel value) goes before the recipe's.

    Raises:
        CaseError: no label file, or, of a joint task, no class.
    """
    own = case.fields.get("label_values")
    task = recipe.built_task()
    first, *others = case.images
    target = task.read_target(case.fields) if isinstance(task, JointTask) else ()
    return LabeledCase(
        case.name,
        first,
        case.file(recipe.label_field),
        own if isinstance(own, Mapping) else recipe.label_values,
        more_channels=tuple(others),
        target=target,
    )


def image_case(recipe: ListTraining, case: ListedCase) -> ImageCase:
    """A case of a task about whole volumes.

    Raises:
        CaseError: what is asked is not known of it.
    """
    task = recipe.built_task()
    assert isinstance(task, WholeVolumeTask)
    return ImageCase(case.name, case.images, task.read_target(case.fields))


def usable(recipe: ListTraining, cases: Sequence[ListedCase]) -> tuple[list[LabeledCase] | list[ImageCase], list[str]]:
    """The cases that have what the recipe needs, and why the others have not.

    Raises:
        CaseError: none has; the first one's reason.
    """
    whole = isinstance(recipe.built_task(), WholeVolumeTask)
    found: list[LabeledCase | ImageCase] = []
    refused: list[str] = []
    for case in cases:
        try:
            found.append(image_case(recipe, case) if whole else dense_case(recipe, case))
        except FM3DError as error:
            refused.append(str(CaseError(error.problem, path=case.name, remedy=error.remedy)))
            logger.warning("Case %s is left out: %s", case.name, error)
    if cases and not found:
        raise CaseError(f"none of {len(cases)} listed cases can be used", remedy=f"The first: {refused[0]}")
    return found, refused  # type: ignore[return-value]  # all are of one of the two kinds


def chosen(recipe: ListTraining, listed: DataList, *, fraction: float | None, fold: int | None, seed: int) -> DataList:
    """The part of a list that one training sees.

    Args:
        recipe: which may draw some cases.
        listed: all cases.
        fraction: share of the training cases; None: all.
        fold: held out as validation; None: the list's own validation cases are.
        seed: of the draws.

    Raises:
        FM3DError: too few cases, or no such fold.
    """
    from dataclasses import replace

    from fm3d_core.adaptation.fseft_protocol import draw_support

    if fold is not None:
        listed = listed.fold(fold)
    if fraction is not None:
        listed = listed.fraction(fraction, seed)
    if recipe.shots is not None:
        listed = replace(listed, training=tuple(draw_support(listed.training, recipe.shots, seed + 1)))
    return listed
