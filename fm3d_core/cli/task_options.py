"""Which question is asked of whole volumes: a task's file, or the columns of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fm3d_core.errors import CaseError, SettingsError

if TYPE_CHECKING:
    from fm3d_core.tasks import WholeVolumeTask
    from fm3d_core.volumes import ListedCase

MOST_CLASSES = 50
WholeKind = Literal["classification", "multilabel", "regression", "survival"]


@dataclass(frozen=True)
class QuestionOption:
    """What is asked.

    Attributes:
        task: YAML file of a task: kind: classification, multilabel, regression or survival, and what belongs to it.
        kind: of the task, if there is no file.
        target: columns of the list: of the class or value; of every finding; of time and event.
    """

    task: Path | None = None
    kind: WholeKind = "classification"
    target: tuple[str, ...] = ()

    def read(self, cases: Sequence[ListedCase]) -> WholeVolumeTask:
        """The task; classes without a file are those that occur in the cases.

        Raises:
            SettingsError: both or neither are given, a task about voxels, or another number of columns.
            CaseError: no case has the column, or it has a new value almost everywhere.
        """
        from fm3d_core.tasks import RegressionTask, SurvivalTask, WholeVolumeTask, read_task
        from fm3d_core.tasks.multilabel import MultilabelTask

        if (self.task is None) == (not self.target):
            raise SettingsError("give either --task or --target", remedy="For example --target diagnosis")
        if self.task is not None:
            task = read_task(self.task)
            if not isinstance(task, WholeVolumeTask):
                raise SettingsError(
                    f"asks about voxels ({task.kind})", path=self.task, remedy="Give a task about whole volumes"
                )
            return task
        wanted = {"classification": 1, "regression": 1, "survival": 2}.get(self.kind)
        if wanted is not None and len(self.target) != wanted:
            raise SettingsError(
                f"{self.kind} has {wanted} column{'s' * (wanted > 1)}, --target names {len(self.target)}",
                remedy="Name the class or value; of survival time and event",
            )
        if self.kind == "multilabel":
            return MultilabelTask(self.target)
        if self.kind == "regression":
            return RegressionTask(self.target[0])
        if self.kind == "survival":
            return SurvivalTask(time_column=self.target[0], event_column=self.target[1])
        return _classification(self.target[0], cases)


def _classification(column: str, cases: Sequence[ListedCase]) -> WholeVolumeTask:
    from fm3d_core.tasks import ClassificationTask
    from fm3d_core.tasks.whole_volume import value_in

    found = set()
    for case in cases:
        try:
            found.add(str(value_in(case.fields, column)))
        except CaseError:
            continue  # said of each case when its target is read
    if not found:
        known = ", ".join(map(str, cases[0].fields)) if cases else ""
        raise CaseError(f"no case has {column}", remedy=f"The columns are {known}")
    if len(found) > MOST_CLASSES:
        raise CaseError(f"{column} has {len(found)} different values", remedy="Say --kind regression if it is a number")
    return ClassificationTask(tuple(sorted(found, key=_natural)), column)


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by their value, before other names."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def with_targets(
    task: WholeVolumeTask, cases: Sequence[ListedCase]
) -> tuple[list[ListedCase], list[tuple[float, ...]], list[str]]:
    """The cases whose answer is known, the answers, and why the others are left out."""
    known, targets, left_out = [], [], []
    for case in cases:
        try:
            targets.append(task.read_target(case.fields))
        except CaseError as error:
            left_out.append(f"{case.name}: {error.problem}")
            continue
        known.append(case)
    return known, targets, left_out
