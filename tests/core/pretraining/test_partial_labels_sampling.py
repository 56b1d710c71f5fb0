"""Sets take turns, ranks share one sequence, and a resume goes on exactly there."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.partial_labels.balanced_sampling import BalancedDraw, BalancedSampler

GROUPS = {"small": (0, 1), "large": tuple(range(2, 40)), "single": (40,)}


def first(sampler: BalancedSampler, batches: int) -> list[BalancedDraw]:
    return [draw for batch in itertools.islice(sampler, batches) for draw in batch]


def test_the_sets_take_turns_and_their_volumes_come_evenly() -> None:
    draws = first(BalancedSampler(GROUPS, 2, seed=3), 1500)
    turns = list(GROUPS.values())
    assert all(draw.index in turns[place % 3] for place, draw in enumerate(draws))
    counts = Counter(draw.index for draw in draws)
    assert 400 < counts[0] < 600 and counts[40] == 1000  # of 1000 turns
    assert all(10 < counts[index] < 50 for index in range(2, 40))  # 26 expected, five deviations of 5.1


def test_two_ranks_see_together_what_one_sees() -> None:
    alone = first(BalancedSampler(GROUPS, 2, seed=3), 6)
    both = [first(BalancedSampler(GROUPS, 2, seed=3, rank=rank, world_size=2), 3) for rank in range(2)]
    assert [draw for pair in zip(*both, strict=True) for draw in pair] == alone


def test_a_resume_goes_on_with_the_next_sample_on_any_number_of_ranks() -> None:
    whole = first(BalancedSampler(GROUPS, 2, seed=3), 10)
    stopped = BalancedSampler(GROUPS, 2, seed=3)
    first(stopped, 9)  # workers run ahead
    stopped.consumed(4)
    resumed = BalancedSampler(GROUPS, 1, seed=3, rank=1, world_size=2)
    resumed.load_state_dict(stopped.state_dict())
    assert first(resumed, 6) == whole[9::2][:6]


def test_the_same_volume_has_another_random_stream_each_time() -> None:
    draws = [draw for draw in first(BalancedSampler(GROUPS, 1), 30) if draw.index == 40]
    assert len({draw.stream("crops") for draw in draws}) == len(draws) == 10


def test_other_sets_or_another_seed_cannot_be_resumed() -> None:
    state = BalancedSampler(GROUPS, 1, seed=3).state_dict()
    with pytest.raises(SettingsError, match="seed"):
        BalancedSampler(GROUPS, 1, seed=4).load_state_dict(state)
    with pytest.raises(SettingsError, match="sets"):
        BalancedSampler({"small": (0, 1)}, 1, seed=3).load_state_dict(state)
    with pytest.raises(SettingsError, match="from 0 sets"):
        BalancedSampler({}, 1)
