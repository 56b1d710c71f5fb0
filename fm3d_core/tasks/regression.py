"""Regression: one number for a whole volume, such as an age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.tasks.task import checked_names
from fm3d_core.tasks.whole_volume import Target, WholeVolumeTask, number_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from typing_extensions import Self

    from fm3d_core.tasks.whole_volume import Numbers


@dataclass(frozen=True)
class RegressionTask(WholeVolumeTask):
    """How large a value is.

    A network learns (value - mean) / sd of the training cases; answers are in the value's own unit.

    Attributes:
        name: of the value.
        column: of a data list in which it stands; None: ``name``.
        unit: of the value, for the reader.
        mean, sd: of the training cases; None until training finds them.

    Raises:
        SettingsError: no name, or a standard deviation that is not above 0.
    """

    name: str
    column: str | None = None
    unit: str = ""
    mean: float | None = None
    sd: float | None = None
    kind: ClassVar[str] = "regression"
    selected_by: ClassVar[tuple[str, ...]] = ("mae",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_names((self.name,), "values")
        if self.sd is not None and not self.sd > 0:
            raise SettingsError(f"sd is {self.sd}", remedy="It is the spread of the training cases, above 0")

    @property
    def labels(self) -> tuple[str, ...]:
        """The value's name."""
        return (self.name,)

    @property
    def classes(self) -> int:
        """One number."""
        return 1

    @property
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""
        return (self.column or self.name,)

    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """The value in its own unit."""
        return (number_in(fields, self.column or self.name),)

    def fit(self, targets: Sequence[Target]) -> Self:
        """With mean and standard deviation (of the cases, not an estimate beyond them) of the training values."""
        import numpy as np

        values = np.array([target[0] for target in targets])
        mean, sd = float(values.mean()), float(values.std())
        if not sd > 0:
            raise CaseError(
                f"{self.name} is {mean:g} in all {len(values)} training cases", remedy="Add cases that differ"
            )
        return replace(self, mean=mean, sd=sd)

    def loss(self) -> Callable[..., torch.Tensor]:
        """Mean squared error of the standardised value."""
        return partial(_squared_error, mean=self._known_mean, sd=self._known_sd)

    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """The value in its own unit."""
        return scores.float() * self._known_sd + self._known_mean

    def describe(self, activated: Sequence[float]) -> dict[str, Any]:
        """The value, with its unit."""
        return {"value": round(float(activated[0]), 5), "unit": self.unit}

    def measure(self, activated: Numbers, targets: Numbers) -> dict[str, float]:
        """Mean absolute error in the value's unit, and Pearson's correlation."""
        import numpy as np

        found, truth = activated[:, 0], targets[:, 0]
        varied = len(truth) > 1 and found.std() > 0 and truth.std() > 0
        return {
            "mae": float(np.abs(found - truth).mean()),
            "correlation": float(np.corrcoef(found, truth)[0, 1]) if varied else float("nan"),
        }

    @property
    def _known_mean(self) -> float:
        return 0.0 if self.mean is None else self.mean

    @property
    def _known_sd(self) -> float:
        return 1.0 if self.sd is None else self.sd


def _squared_error(
    scores: torch.Tensor, target: torch.Tensor, annotated: None = None, *, mean: float, sd: float
) -> torch.Tensor:
    from torch.nn import functional as F

    return F.mse_loss(scores.float()[:, 0], (target[:, 0].to(scores.device).float() - mean) / sd)
