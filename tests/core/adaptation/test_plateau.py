"""Training ends sooner where the loss no longer falls, and only there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fm3d_core.adaptation.plateau import Plateau


def _end(loss: object, steps: int = 4000) -> tuple[float, list[float]]:
    """At which share of the budget a training with this loss (of the share spent) ends, and its schedule's shares."""
    random, plateau, shares = np.random.default_rng(0), Plateau(), []
    for step in range(steps):
        spent = step / steps
        shares.append(plateau.shortened(spent))
        if shares[-1] >= 1:
            return spent, shares
        plateau.note(spent, loss(spent) * random.lognormal(sigma=0.3))  # type: ignore[operator]
    return 1.0, shares


def test_a_loss_that_falls_uses_the_whole_budget() -> None:
    assert _end(lambda spent: math.exp(-spent))[0] == 1
    assert _end(lambda spent: 1 / (1 + 3 * spent))[0] == 1


@pytest.mark.parametrize("until", [0.1, 0.3])
def test_a_loss_that_stays_ends_it_with_a_learning_rate_that_falls_to_zero(until: float) -> None:
    ended, shares = _end(lambda spent: 1 + max(until - spent, 0) * 5)
    assert until + 0.2 < ended < 0.9
    assert np.all(np.diff(shares) >= 0) and np.max(np.diff(shares)) < 0.02 and shares[-1] == 1


def test_few_steps_say_nothing() -> None:
    assert _end(lambda spent: 1.0, steps=500)[0] == 1
