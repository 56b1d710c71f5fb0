"""Discrete-time survival: the time axis is cut into bins, a model scores the hazard of each.

Zadeh and Schmid 2021 (loss and its weight alpha), Gensheimer and Narasimhan 2019 (discrete hazards). With scores x_j
the hazard of an event in bin j, given survival until then, is h_j = sigmoid(x_j); survival beyond bin j is
S_j = prod_{i <= j} (1 - h_i). All is computed from log h = logsigmoid(x) and log(1 - h) = logsigmoid(-x), which stay
finite for any score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    Times = Sequence[float] | NDArray[np.floating[Any]]


def survival_loss(
    scores: torch.Tensor, bins: torch.Tensor, censored: torch.Tensor | None = None, *, alpha: float = 0.0
) -> torch.Tensor:
    """Mean negative log-likelihood of hazards.

    With an event in bin y the likelihood is S_{y-1} h_y; censored in bin y it is S_y.

    Args:
        scores: (B, bins).
        bins: (B,) bin of the event or of the last observation.
        censored: (B,) 1 where no event was seen; None: all events were (FLARE 2025's UPenn-GBM recipe).
        alpha: share by which censored cases count less, 0 to 1.
    """
    import torch
    from torch.nn import functional as F

    scores = scores.float()
    at = bins.long()[:, None]
    log_beyond = F.logsigmoid(-scores).cumsum(dim=1)  # log S_j
    log_before = F.pad(log_beyond, (1, 0)).gather(1, at).flatten()  # log S_{y-1}, S_{-1} = 1
    log_hazard = F.logsigmoid(scores).gather(1, at).flatten()
    unseen = torch.zeros_like(log_hazard) if censored is None else censored.to(log_hazard)
    seen = -(1 - unseen) * (log_before + log_hazard)
    return (seen - (1 - alpha) * unseen * log_beyond.gather(1, at).flatten()).mean()


def survival_curve(scores: torch.Tensor) -> torch.Tensor:
    """Probability of surviving beyond each bin (B, bins), falling along the bins."""
    from torch.nn import functional as F

    return F.logsigmoid(-scores.float()).cumsum(dim=1).exp()


def survival_risk(scores: torch.Tensor) -> torch.Tensor:
    """Risk (B,): minus the sum of the survival curve, so a higher risk is an earlier event; for the C-index."""
    return -survival_curve(scores).sum(dim=1)


def quantile_bin_edges(times: Times, bins: int, *, censored: Times | None = None) -> NDArray[np.float64]:
    """Edges (bins + 1,) float64 that put equally many events into each bin; from training cases only.

    The outer edges lie 1e-6 beyond the smallest and the largest time of all cases.

    Args:
        times: of event or last observation, in any one unit.
        bins: number of bins.
        censored: cases that do not count for the inner edges; None: all count.

    Raises:
        SettingsError: fewer distinct event times than bins, or a time that is not finite.
    """
    import numpy as np

    values = np.asarray(times, dtype=np.float64)
    events = values if censored is None else values[~np.asarray(censored).astype(bool)]
    remedy = "Check the times of the training cases, or use fewer bins"
    if bins < 1 or not len(events) or not np.isfinite(values).all():
        raise SettingsError(f"cannot cut {len(events)} survival times into {bins} bins", remedy=remedy)
    edges = np.quantile(events, np.linspace(0, 1, bins + 1))
    edges[0], edges[-1] = values.min() - 1e-6, values.max() + 1e-6
    if (np.diff(edges) <= 0).any():
        raise SettingsError(f"too many equal survival times for {bins} bins", remedy=remedy)
    return edges


def time_bins(times: Times, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin (n,) int64 of each time; bins include their left edge, times beyond the outer edges go to the outer bins."""
    import numpy as np

    inner = np.asarray(edges, dtype=np.float64)[1:-1]
    return np.searchsorted(inner, np.asarray(times, dtype=np.float64), side="right").astype(np.int64)
