"""One endless order, whatever the number of processes, and an exact place in it."""

from __future__ import annotations

import itertools

import pytest

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.sampling import Draw, EndlessSampler


def take(sampler: EndlessSampler, batches: int) -> list[Draw]:
    return [draw for batch in itertools.islice(sampler, batches) for draw in batch]


def test_each_pass_is_another_permutation_of_all_volumes() -> None:
    draws = take(EndlessSampler(10, 4, seed=3), 10)
    passes = [draws[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(draw.index for draw in one) == list(range(10)) for one in passes)
    assert all({draw.epoch for draw in one} == {number} for number, one in enumerate(passes))
    assert len({tuple(draw.index for draw in one) for one in passes}) == 4
    assert draws == take(EndlessSampler(10, 4, seed=3), 10) != take(EndlessSampler(10, 4, seed=4), 10)


def test_ranks_share_the_sequence_without_overlap() -> None:
    whole = take(EndlessSampler(11, 6), 8)
    ranks = [take(EndlessSampler(11, 2, rank=rank, world_size=3), 8) for rank in range(3)]
    assert [draw for three in zip(*ranks, strict=True) for draw in three] == whole


def test_resuming_in_the_middle_of_a_pass_continues_the_sequence_on_any_number_of_ranks() -> None:
    whole = take(EndlessSampler(7, 4, seed=1), 6)
    sampler = EndlessSampler(7, 4, seed=1)
    list(itertools.islice(sampler, 5))  # prefetching is no consuming
    sampler.consumed(3)
    assert sampler.epoch == 1
    again = EndlessSampler(7, 4, seed=1)
    again.load_state_dict(sampler.state_dict())
    assert take(again, 3) == whole[12:]
    ranks = [EndlessSampler(7, 2, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(sampler.state_dict())
    both = zip(*(take(rank, 3) for rank in ranks), strict=True)
    assert [draw for pair in both for draw in pair] == whole[12:]


def test_a_state_of_other_data_or_another_seed_is_refused() -> None:
    state = EndlessSampler(7, 4, seed=1).state_dict()
    with pytest.raises(SettingsError, match="number of volumes 7, this one 8"):
        EndlessSampler(8, 4, seed=1).load_state_dict(state)
    with pytest.raises(SettingsError, match="seed 1, this one 2"):
        EndlessSampler(7, 4, seed=2).load_state_dict(state)
    with pytest.raises(SettingsError, match="no batches"):
        EndlessSampler(0, 4)


def test_streams_differ_by_seed_pass_volume_and_purpose() -> None:
    draws = [Draw(*numbers) for numbers in itertools.product(range(6), repeat=3)]
    streams = {draw.stream(purpose) for draw in draws for purpose in ("crops 0", "crops 1", "masks")}
    assert len(streams) == 3 * 6**3
    assert Draw(1, 2, 3).stream("masks") == 6862306045233973076  # half of what sha256sum begins with
