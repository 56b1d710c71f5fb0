"""Classification: one of several classes for a whole volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import CaseError
from fm3d_core.tasks.task import checked_names
from fm3d_core.tasks.whole_volume import Target, WholeVolumeTask, index_in, value_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from typing_extensions import Self

    from fm3d_core.tasks.whole_volume import Numbers


@dataclass(frozen=True)
class ClassificationTask(WholeVolumeTask):
    """Which of several classes a volume belongs to.

    Attributes:
        labels: names of the classes, at least two.
        column: of a data list in which a case's class stands, by name or by number from 0.

    Raises:
        SettingsError: fewer than two classes, or a name twice.
    """

    labels: tuple[str, ...]
    column: str = "label"
    kind: ClassVar[str] = "classification"
    selected_by: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "auc")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", checked_names(self.labels, "classes", 2))

    @property
    def classes(self) -> int:
        """One score per class."""
        return len(self.labels)

    @property
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""
        return (self.column,)

    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """The class's index."""
        return (float(index_in(value_in(fields, self.column), self.labels, self.column)),)

    def fit(self, targets: Sequence[Target]) -> Self:
        """Itself, if there are two classes to tell apart."""
        if len({target[0] for target in targets}) < 2:
            raise CaseError("all cases are of one class", remedy="Add cases of the others: nothing else can be learned")
        return self

    def loss(self) -> Callable[..., torch.Tensor]:
        """Cross-entropy."""
        return _cross_entropy

    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        return scores.float().softmax(1)

    def describe(self, activated: Sequence[float]) -> dict[str, Any]:
        """The likeliest class, and the probability of each."""
        probabilities = dict(zip(self.labels, (round(float(value), 5) for value in activated), strict=True))
        return {"class": max(probabilities, key=lambda name: probabilities[name]), "probabilities": probabilities}

    def measure(self, activated: Numbers, targets: Numbers) -> dict[str, float]:
        """Accuracy, balanced accuracy and AUC (one class against the rest, mean over the classes)."""
        from fm3d_core.tasks.metrics import area_under_curve, balanced_accuracy, mean_known

        truth, said = targets[:, 0].astype(int), activated.argmax(1)
        columns = range(1, 2) if self.classes == 2 else range(self.classes)
        areas = [area_under_curve(activated[:, index], truth == index) for index in columns]
        return {
            "accuracy": float((truth == said).mean()),
            "balanced_accuracy": balanced_accuracy(said, truth),
            "auc": mean_known(areas),
        }


def _cross_entropy(scores: torch.Tensor, target: torch.Tensor, annotated: None = None) -> torch.Tensor:
    from torch.nn import functional as F

    return F.cross_entropy(scores.float(), target[:, 0].long())
