"""All kinds of tasks by name, and reading one from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fm3d_core.errors import SettingsError
from fm3d_core.strict_settings import read_yaml
from fm3d_core.tasks.classification import ClassificationTask
from fm3d_core.tasks.joint import JointTask
from fm3d_core.tasks.multilabel import MultilabelTask
from fm3d_core.tasks.regions import RegionsTask
from fm3d_core.tasks.regression import RegressionTask
from fm3d_core.tasks.segmentation import SegmentationTask
from fm3d_core.tasks.survival import SurvivalTask
from fm3d_core.tasks.task import Task

TASKS: dict[str, Any] = {
    kind.kind: kind
    for kind in (
        SegmentationTask,
        RegionsTask,
        ClassificationTask,
        MultilabelTask,
        RegressionTask,
        SurvivalTask,
        JointTask,
    )
}


def task_from_dict(data: Mapping[str, Any]) -> Task:
    """The task that plain data describe; without a ``kind``, a segmentation.

    Raises:
        SettingsError: an unknown kind, a key that is unknown or missing, or an impossible value.
    """
    kind = data.get("kind", SegmentationTask.kind)
    if kind not in TASKS:
        raise SettingsError(f"unknown kind of task '{kind}'", remedy=f"Choose one of: {', '.join(TASKS)}")
    task: Task = TASKS[kind].from_dict(data)
    return task


def read_task(path: str | Path) -> Task:
    """Read a task of any kind from a YAML file.

    Raises:
        SettingsError: no such file, not YAML, or not a task.
    """
    data = read_yaml(path, "not a readable task file", "Give a YAML file")
    if not isinstance(data, dict):
        raise SettingsError("not a task", path=path, remedy="Write kind: and what belongs to it")
    try:
        return task_from_dict(data)
    except SettingsError as error:
        raise SettingsError(error.problem, path=path, remedy=error.remedy) from error
