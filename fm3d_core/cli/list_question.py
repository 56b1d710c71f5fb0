"""``fm3d finetune LIST --task``: which question a list of cases is to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fm3d_core.cli.task_options import QuestionOption, WholeKind
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.tasks import Task
    from fm3d_core.volumes import DataList

LISTS = (".json", ".csv")
WHOLE_KINDS: tuple[WholeKind, ...] = ("classification", "multilabel", "regression", "survival")


def asks_a_list(place: Path, task: str | None, target: Sequence[str]) -> bool:
    """Whether a list is to be learned from, and no folder of labelled cases."""
    return place.suffix.lower() in LISTS or bool(target) or task in WHOLE_KINDS


def read_question(task: str | None, target: tuple[str, ...], listed: DataList) -> Task:
    """The task of a list: a kind with its columns, or a file of any kind.

    Raises:
        SettingsError: no task, one that needs a file, or another number of columns.
        CaseError: no case has the column.
    """
    from fm3d_core.tasks import read_task
    from fm3d_core.tasks.kinds import TASKS

    remedy = f"Say --task {WHOLE_KINDS[0]} --target COLUMN (or {', '.join(WHOLE_KINDS[1:])}), or --task FILE.yaml"
    if task is None and not target:
        raise SettingsError("a list is given, but not what is asked", path=listed.path, remedy=remedy)
    if task in TASKS and task not in WHOLE_KINDS:
        raise SettingsError(
            f"a task of the kind {task} needs its structures", remedy=f"Write a file: kind: {task}, labels: ... "
        )
    if task is not None and task not in WHOLE_KINDS:
        if target:
            raise SettingsError("--target goes with a kind of task, not with a file", remedy="Leave --target out")
        return read_task(task)
    if not target:
        raise SettingsError(f"--task {task} needs the columns of the list that are asked", remedy=remedy)
    kind = task or "classification"
    return QuestionOption(None, kind, target).read((*listed.training, *listed.validation, *listed.test))
