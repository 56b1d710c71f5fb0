"""Tasks: the questions that can be asked of a volume, one file per kind."""

from fm3d_core.tasks.classification import ClassificationTask
from fm3d_core.tasks.joint import JointTask
from fm3d_core.tasks.kinds import TASKS, read_task, task_from_dict
from fm3d_core.tasks.multilabel import MultilabelTask
from fm3d_core.tasks.regions import RegionsTask
from fm3d_core.tasks.regression import RegressionTask
from fm3d_core.tasks.segmentation import SegmentationTask
from fm3d_core.tasks.survival import SurvivalTask
from fm3d_core.tasks.task import HEADS, DenseTask, Task, check_head
from fm3d_core.tasks.whole_volume import WholeVolumeTask

__all__ = [
    "HEADS",
    "TASKS",
    "ClassificationTask",
    "DenseTask",
    "JointTask",
    "MultilabelTask",
    "RegionsTask",
    "RegressionTask",
    "SegmentationTask",
    "SurvivalTask",
    "Task",
    "WholeVolumeTask",
    "check_head",
    "read_task",
    "task_from_dict",
]
