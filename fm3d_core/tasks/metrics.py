"""Figures over volumes whose answer is a class, some findings, a number or a risk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
SMALLER_IS_BETTER = ("mae",)


def balanced_accuracy(said: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share that was recognised.

    Args:
        said, truth: (n,) indices of classes.
    """
    return float(np.mean([(said[truth == each] == each).mean() for each in np.unique(truth)]))


def area_under_curve(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive is above a negative, ties half (Mann and Whitney 1947).

    Args:
        scores: (n,), higher for what is more likely positive.
        truth: (n,).

    Returns:
        0 to 1; NaN if all are positive or none is.
    """
    from scipy.stats import rankdata

    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Sum over the thresholds of precision times the gain in recall, without interpolation; equal scores are one step.

    Args:
        scores, truth: as of :func:`area_under_curve`.

    Returns:
        0 to 1; NaN if none is positive.
    """
    if not truth.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each group of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def concordance_index(risk: Floats, times: Floats, events: npt.NDArray[np.bool_]) -> float:
    """Harrell's C (1982): of the pairs whose order is known, how many have the higher risk die first; ties half.

    A pair is known if the earlier of two times is an event.

    Args:
        risk: (n,), higher for an earlier event.
        times: (n,) of event or last observation.
        events: (n,) whether an event was seen.

    Returns:
        0 to 1; NaN without a pair that is known.
    """
    earlier = (times[:, None] < times[None]) & events[:, None]
    if not earlier.any():
        return math.nan
    difference = risk[:, None] - risk[None]
    return float(((difference > 0) + 0.5 * (difference == 0))[earlier].mean())


def mean_known(values: Sequence[float]) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def selection_score(figures: dict[str, float], names: Sequence[str]) -> float:
    """One number, higher for the better, of the figures named: their mean, of an error its negative.

    NaN if none of them could be measured.
    """
    signed = [-figures[name] if name in SMALLER_IS_BETTER else figures[name] for name in names]
    return mean_known(signed)
