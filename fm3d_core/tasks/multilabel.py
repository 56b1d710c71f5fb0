"""Multi-label classification: for each of several findings, whether it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import CaseError
from fm3d_core.tasks.task import checked_names
from fm3d_core.tasks.whole_volume import Target, WholeVolumeTask, number_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fm3d_core.tasks.whole_volume import Numbers

THRESHOLD = 0.5


@dataclass(frozen=True)
class MultilabelTask(WholeVolumeTask):
    """Which of several findings a volume shows: none, one or more.

    Attributes:
        labels: names of the findings.
        column: of a data list in which all findings of a case stand: a list of 0 and 1 in the order of ``labels``, or
            the names of those that are there. Without such a column each finding has one of its own name with 0 or 1.

    Raises:
        SettingsError: no finding, or a name twice.
    """

    labels: tuple[str, ...]
    column: str = "label"
    kind: ClassVar[str] = "multilabel"
    selected_by: ClassVar[tuple[str, ...]] = ("map",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", checked_names(self.labels, "findings"))

    @property
    def classes(self) -> int:
        """One score per finding."""
        return len(self.labels)

    @property
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""
        return (self.column,)

    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """0 or 1 for each finding."""
        if isinstance(fields.get(self.column), str) and self.column not in self.labels:
            fields = {**fields, self.column: fields[self.column].replace(";", ",").split(",")}
        listed = fields.get(self.column)
        if isinstance(listed, (list, tuple)):
            return self._listed([str(value).strip() for value in listed])
        return tuple(self._zero_or_one(number_in(fields, name), name) for name in self.labels)

    def loss(self) -> Callable[..., torch.Tensor]:
        """Binary cross-entropy of each finding, mean."""
        return _binary_cross_entropy

    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """Probability of each finding."""
        return scores.float().sigmoid()

    def describe(self, activated: Sequence[float]) -> dict[str, Any]:
        """The findings above one half, and the probability of each."""
        probabilities = dict(zip(self.labels, (round(float(value), 5) for value in activated), strict=True))
        return {
            "labels": [name for name, value in probabilities.items() if value > THRESHOLD],
            "probabilities": probabilities,
        }

    def measure(self, activated: Numbers, targets: Numbers) -> dict[str, float]:
        """Mean over the findings that some, not all volumes show: average precision (mAP) and AUC."""
        from fm3d_core.tasks.metrics import area_under_curve, average_precision, mean_known

        columns = range(self.classes)
        return {
            "map": mean_known([average_precision(activated[:, index], targets[:, index] > 0) for index in columns]),
            "auc": mean_known([area_under_curve(activated[:, index], targets[:, index] > 0) for index in columns]),
        }

    def _listed(self, values: list[str]) -> Target:
        names = [value for value in values if value]
        if set(names) <= set(self.labels) and not set(names) & {"0", "1"}:
            return tuple(float(name in names) for name in self.labels)
        if len(names) != len(self.labels):
            unknown = [name for name in names if name not in self.labels]
            raise CaseError(
                f"{self.column} is {', '.join(unknown[:5])}: neither findings nor {len(self.labels)} times 0 or 1",
                remedy=f"The findings are {', '.join(self.labels)}",
            )
        return tuple(self._zero_or_one(value, name) for value, name in zip(names, self.labels, strict=True))

    def _zero_or_one(self, value: Any, name: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if number not in (0.0, 1.0):
            raise CaseError(f"{name} is {value}", remedy="Write 1 where it is seen, else 0")
        return number


def _binary_cross_entropy(scores: torch.Tensor, target: torch.Tensor, annotated: None = None) -> torch.Tensor:
    from torch.nn import functional as F

    return F.binary_cross_entropy_with_logits(scores.float(), target.to(scores.device).float())
