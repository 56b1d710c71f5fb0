"""A training of one's own on a list of cases, run as a recipe is: a task, and all else as FM3D chooses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from fm3d_core.adaptation.plan import TrainingPlan
from fm3d_core.adaptation.settings import FinetuneSettings
from fm3d_core.recipes.recipe import Test, Validation
from fm3d_core.tasks import WholeVolumeTask

if TYPE_CHECKING:
    from fm3d_core.tasks import DenseTask, Task

WHOLE_VOLUMES = 4  # in a step, whose batch norm compares them
LOOK_EVERY = 50  # steps


class ListTraining(Protocol):
    """What :func:`fm3d_core.recipes.running.run_recipe` runs: a recipe, or a training of one's own."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def label_values(self) -> dict[str, int] | None:
        """Structure -> voxel value in label files; None: the task's own."""

    @property
    def label_field(self) -> str:
        """Of a list, in which a case's label file stands."""

    @property
    def shots(self) -> int | None:
        """So many training cases are drawn; None: all are used."""

    @property
    def validation(self) -> Validation | None:
        """How the best weights are chosen, if the list has validation cases."""

    @property
    def test(self) -> Test:
        """How test cases are predicted."""

    def built_task(self) -> Task:
        """The task; what it lacks of preprocessing and crop is planned from the cases."""

    def dense_task(self) -> DenseTask:
        """The same, of a question about voxels."""

    def settings(self, cases: int, **given: Any) -> FinetuneSettings:
        """Of a training from so many ``cases``; ``given`` goes before."""

    def plan(self) -> TrainingPlan:
        """What is fixed besides."""

    def noted(self) -> dict[str, Any]:
        """What goes into the adapter's card."""


@dataclass(frozen=True)
class OwnTraining:
    """A task learned from a list with settings of one's own.

    Attributes:
        task: what is asked; preprocessing and crop are planned from the cases where it says nothing of them.
        name, label_field, label_values, shots, test: as of a recipe.
    """

    task: Task
    name: str = "this task"
    label_field: str = "label"
    label_values: dict[str, int] | None = None
    shots: int | None = None
    test: Test = field(default_factory=Test)

    @property
    def validation(self) -> Validation:
        """By what the task is measured with."""
        chosen = getattr(self.task, "selected_by", ("dice",))
        return Validation(LOOK_EVERY, chosen, overlap=self.test.overlap)

    def built_task(self) -> Task:
        """The task."""
        return self.task

    def dense_task(self) -> DenseTask:
        """The same, of a question about voxels."""
        return cast("DenseTask", self.task)

    def settings(self, cases: int, **given: Any) -> FinetuneSettings:
        """What is given; of whole volumes four in a step.

        Raises:
            SettingsError: an impossible value.
        """
        return FinetuneSettings(**({"batch_size": WHOLE_VOLUMES} if self.task.whole_volume else {}) | given)

    def plan(self) -> TrainingPlan:
        """FM3D's own."""
        return TrainingPlan(crop=self.task.crop if isinstance(self.task, WholeVolumeTask) else None)

    def noted(self) -> dict[str, Any]:
        """Nothing further."""
        return {}
