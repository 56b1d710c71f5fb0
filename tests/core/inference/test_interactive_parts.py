"""The parts of interactive segmentation, each against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fm3d_core.inference.interactive.bounding import bounded
from fm3d_core.inference.interactive.geodesic import FAR, geodesic_distance
from fm3d_core.inference.interactive.prompt_maps import PromptMaps, stacked
from fm3d_core.inference.interactive.random_walker import RandomWalker
from fm3d_core.inference.interactive.region import Region
from fm3d_core.inference.interactive.results import MOST, Results
from fm3d_core.models.prompt_decoder import PROMPT_CHANNELS


def test_geodesic_distance_is_length_times_cost_and_goes_around_a_wall() -> None:
    cost = np.ones((9, 9, 3), np.float32)
    seeds = np.zeros(cost.shape, bool)
    seeds[0, 4, 1] = True
    free = geodesic_distance(cost, seeds, (2.0, 1.0, 1.0))
    assert free[8, 4, 1] == pytest.approx(16) and free[0, 0, 1] == pytest.approx(4)
    cost[4, :8] = 1e5  # a wall with a gap at one end
    around = geodesic_distance(cost, seeds, (2.0, 1.0, 1.0))
    assert 17 < around[8, 4, 1] < 30
    assert geodesic_distance(cost, np.zeros_like(seeds), (1.0, 1.0, 1.0)).min() == FAR


def test_the_random_walker_solves_its_equation_and_keeps_the_seeds() -> None:
    random = np.random.default_rng(0)
    image, prior = random.random((5, 4, 3), np.float32), random.random((5, 4, 3), np.float32)
    seeds, values = np.zeros(image.shape, bool), np.zeros(image.shape, np.float32)
    seeds[0, 0, 0] = seeds[4, 3, 2] = True
    values[4, 3, 2] = 1
    spacing, strength, sensitivity = (1.0, 1.0, 2.0), 0.3, 5.0
    found = RandomWalker(image, spacing, sensitivity).solve(prior, strength, seeds, values)
    # the same by a dense matrix
    index = np.arange(image.size).reshape(image.shape)
    laplacian = np.zeros((image.size, image.size))
    for axis, step in enumerate(spacing):
        first = np.take(index, range(image.shape[axis] - 1), axis).ravel()
        second = np.take(index, range(1, image.shape[axis]), axis).ravel()
        weight = (np.exp(-sensitivity * (image.ravel()[first] - image.ravel()[second]) ** 2) + 1e-3) / step**2
        laplacian[first, second] = laplacian[second, first] = -weight
    np.fill_diagonal(laplacian, -laplacian.sum(axis=1))
    free = ~seeds.ravel()
    matrix = laplacian + strength * np.eye(image.size)
    right = strength * prior.ravel()[free] - matrix[np.ix_(free, ~free)] @ values.ravel()[~free]
    expected = values.ravel().copy().astype(np.float64)
    expected[free] = np.linalg.solve(matrix[np.ix_(free, free)], right)
    np.testing.assert_allclose(found.ravel(), expected, atol=0.02)  # it stops at a hundredth
    assert found[0, 0, 0] == 0 and found[4, 3, 2] == 1


def test_a_region_is_as_fine_as_its_limit_allows_and_voxels_find_their_place() -> None:
    own = Region.of((2, 3, 4), (10, 11, 8), (1.0, 1.0, 3.0))
    assert own.shape == own.size == (8, 8, 4) and own.spacing == (1.0, 1.0, 3.0)
    coarse = Region.of((0, 0, 0), (80, 80, 40), (1.0, 1.0, 3.0), voxels=60_000)
    assert np.prod(coarse.shape) <= 60_000 < np.prod(coarse.shape) * 1.4
    assert coarse.spacing[2] == pytest.approx(3.0)  # slices that are thick already stay
    voxels = np.array([[0, 0, 0], [79, 79, 39], [90, 0, 0]])
    assert coarse.working(voxels).tolist() == [[0, 0, 0], [edge - 1 for edge in coarse.shape]]
    image = np.arange(80 * 80 * 40, dtype=np.float32).reshape(80, 80, 40)
    assert coarse.coarse(image).mean() == pytest.approx(image.mean(), rel=1e-3)
    assert coarse.fine(coarse.coarse(image)).shape == (80, 80, 40)


def test_prompt_maps_are_one_at_a_prompt_fall_with_distance_and_are_zero_without_any() -> None:
    image = np.zeros((12, 12, 6), np.float32)
    image[6:] = 1.0
    mask = np.zeros(image.shape, bool)
    mask[2, 5, 3] = True
    some, none = (PromptMaps.of(each, image, (1.0, 1.0, 2.0)) for each in (mask, np.zeros_like(mask)))
    for each in some.maps:
        assert each[2, 5, 3] == pytest.approx(1) and each.max() <= 1
    spot, _, near, far, like = some.maps
    assert spot[4, 5, 3] < spot[3, 5, 3] and spot[2, 5, 4] == pytest.approx(spot[4, 5, 3])  # thick slices count twice
    assert near[5, 5, 3] > 100 * near[6, 5, 3] and far[5, 5, 3] > far[6, 5, 3] and like[5, 0, 0] == 1 > like[6, 0, 0]
    assert not any(each.any() for each in none.maps) and not len(none.voxels)
    assert stacked(some, none, None, None).shape == (PROMPT_CHANNELS, *image.shape)
    with_box = stacked(some, none, mask, image)
    assert with_box[10].sum() == 1 and with_box[11].sum() == mask.size - 1 and (with_box[12] == image).all()


def test_a_click_changes_where_it_is_no_thicker_than_it_lies_deep() -> None:
    before = np.zeros((40, 20, 20), bool)
    before[:10] = True
    proposed = before.copy()
    proposed[5:8] = False  # a positive click removes nothing
    proposed[10:16, 8:12, 8:12] = True  # what was missed, the click in its middle
    proposed[16:40, 2:18, 2:18] = True  # a leak behind it
    proposed[10:12, 0:3, 0:3] = True  # something elsewhere
    found = bounded(before, proposed, (13, 10, 10), True, (1.0, 1.0, 1.0))
    assert found[:10].all() and found[10:16, 8:12, 8:12].all()
    assert found[20:].sum() < 0.05 * proposed[20:].sum() and not found[10:12, 0:3, 0:3].any()
    again = bounded(found, before, (13, 10, 10), False, (1.0, 1.0, 1.0))
    assert not again[13, 10, 10] and again[:10].all()
    alone = bounded(before, before, (30, 10, 10), True, (1.0, 1.0, 1.0))  # nothing proposed: the click itself
    assert np.argwhere(alone != before).tolist() == [[30, 10, 10]]


def test_results_are_kept_up_to_a_number_and_found_by_their_prompts() -> None:
    results = Results((3, 4, 5))
    masks = [np.random.default_rng(seed).random((3, 4, 5)) > 0.5 for seed in range(MOST + 1)]
    for number, mask in enumerate(masks):
        results.keep(str(number), mask)
    done, found = results.newest(["1", "2", "unknown"])
    assert done == 2 and found is not None
    np.testing.assert_array_equal(found, masks[2])
    assert results.newest(["0"]) == (0, None) and results.bytes == MOST * 8
