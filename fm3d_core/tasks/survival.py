"""Survival: when an event will come, from cases of which some left before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.tasks.whole_volume import Target, WholeVolumeTask, number_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from typing_extensions import Self

    from fm3d_core.tasks.whole_volume import Numbers


@dataclass(frozen=True)
class SurvivalTask(WholeVolumeTask):
    """The hazard of an event in each of several stretches of time; see :mod:`fm3d_core.tasks.hazards`.

    Attributes:
        bins: stretches of time, with equally many events of the training cases in each.
        time_column: of a data list with the time of the event or of the last observation.
        event_column: with 1 if the event was seen, 0 if the case was lost from sight before; None: all were seen.
        time_unit: for the reader.
        alpha: share by which cases lost from sight count less, 0 to 1.
        edges: (bins + 1,) of the bins; None until training finds them.

    Raises:
        SettingsError: an impossible value.
    """

    bins: int = 3
    time_column: str = "time"
    event_column: str | None = "event"
    time_unit: str = "days"
    alpha: float = 0.0
    edges: tuple[float, ...] | None = None
    kind: ClassVar[str] = "survival"
    selected_by: ClassVar[tuple[str, ...]] = ("c_index",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 2 or not 0 <= self.alpha <= 1:
            raise SettingsError(f"bins is {self.bins}, alpha {self.alpha}", remedy="Give 2 or more; 0 to 1")
        if self.edges is not None and (len(self.edges) != self.bins + 1 or sorted(set(self.edges)) != list(self.edges)):
            raise SettingsError(f"edges are {self.edges}", remedy=f"Give {self.bins + 1} rising times")

    @property
    def labels(self) -> tuple[str, ...]:
        """What is told."""
        return ("risk",)

    @property
    def classes(self) -> int:
        """One hazard per bin."""
        return self.bins

    @property
    def asked_columns(self) -> tuple[str, ...]:
        """Columns of a data list that :meth:`read_target` reads."""
        return (self.time_column,) if self.event_column is None else (self.time_column, self.event_column)

    def read_target(self, fields: Mapping[str, Any]) -> Target:
        """Time, and 1 if the event was seen, else 0."""
        time = number_in(fields, self.time_column)
        if time < 0:
            raise CaseError(f"{self.time_column} is {time:g}", remedy="Times count from the image, from 0 on")
        event = 1.0 if self.event_column is None else number_in(fields, self.event_column)
        if event not in (0.0, 1.0):
            raise CaseError(
                f"{self.event_column} is {event:g}", remedy="Write 1 if the event was seen, 0 if it was not yet"
            )
        return time, event

    def fit(self, targets: Sequence[Target]) -> Self:
        """With the edges of the bins: quantiles of the times at which an event was seen."""
        from fm3d_core.tasks.hazards import quantile_bin_edges

        censored = [1.0 - event for _, event in targets]
        edges = quantile_bin_edges([time for time, _ in targets], self.bins, censored=censored)
        return replace(self, edges=tuple(float(edge) for edge in edges))

    def loss(self) -> Callable[..., torch.Tensor]:
        """Negative log-likelihood of the hazards."""
        return partial(_likelihood, edges=self._known_edges, alpha=self.alpha)

    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """Probability of surviving beyond each bin."""
        from fm3d_core.tasks.hazards import survival_curve

        return survival_curve(scores)

    def describe(self, activated: Sequence[float]) -> dict[str, Any]:
        """Risk (minus the sum of the survival curve: higher is earlier), and the curve at the end of each bin."""
        ends = self._known_edges[1:]
        curve = [
            {"time": round(end, 3), "probability": round(float(p), 5)} for end, p in zip(ends, activated, strict=True)
        ]
        return {"risk": round(-float(sum(activated)), 5), "survival": curve, "unit": self.time_unit}

    def measure(self, activated: Numbers, targets: Numbers) -> dict[str, float]:
        """Harrell's concordance index of the risk."""
        from fm3d_core.tasks.metrics import concordance_index

        return {"c_index": concordance_index(-activated.sum(1), targets[:, 0], targets[:, 1] > 0)}

    @property
    def _known_edges(self) -> tuple[float, ...]:
        return self.edges if self.edges is not None else tuple(float(index) for index in range(self.bins + 1))


def _likelihood(
    scores: torch.Tensor, target: torch.Tensor, annotated: None = None, *, edges: Sequence[float], alpha: float
) -> torch.Tensor:
    import numpy as np
    import torch

    from fm3d_core.tasks.hazards import survival_loss, time_bins

    bins = torch.from_numpy(time_bins(target[:, 0].cpu().numpy(), np.asarray(edges))).to(scores.device)
    return survival_loss(scores, bins, 1 - target[:, 1].to(scores.device), alpha=alpha)
