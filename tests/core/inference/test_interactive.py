"""Segmentation from prompts: better with each click, exact undo, the volume's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from fm3d_core.errors import LabelError, SettingsError, Stopped
from fm3d_core.evaluation.dice import dice_of_masks
from fm3d_core.inference.interactive import Box, FeatureCache, FeatureVolume, Point, Prompts, segment_from_prompts
from fm3d_core.inference.interactive.prompts import VoxelPrompts, voxel_of
from fm3d_core.progress import Progress
from fm3d_core.volumes import Volume

SHAPE, SPACING = (48, 44, 24), (1.0, 1.2, 2.5)


def _oblique() -> np.ndarray:
    """An affine with unequal steps, turned by 20 degrees about z and 10 about x."""
    a, b = np.radians([20, 10])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(SPACING)
    affine[:3, 3] = -30, 12, 7
    return affine


def _ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, size) for size in SHAPE)]
    squares = sum(((axis - middle) * step) ** 2 for axis, middle, step in zip(axes, centre, SPACING, strict=True))
    return np.asarray(squares <= radius**2)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Two lobes of different brightness that touch: one click cannot know of both."""
    return _ball((17, 20, 12), 10.0) | _ball((31, 24, 12), 8.0)


@pytest.fixture(scope="module")
def volume(truth: np.ndarray) -> Volume:
    random = np.random.default_rng(3)
    image = np.full(SHAPE, 100.0)
    image[_ball((17, 20, 12), 10.0)] = 180
    image[_ball((31, 24, 12), 8.0) & ~_ball((17, 20, 12), 10.0)] = 40
    image[_ball((12, 36, 6), 6.0)] = 182  # as bright as the first lobe, but no part of it
    image = ndimage.gaussian_filter(image, 0.7) + random.normal(0, 6, SHAPE)
    image[:, :, -4:] = 0  # air
    return Volume.from_array(image.astype(np.float32), _oblique(), "oblique.nii.gz")


@pytest.fixture(scope="module")
def features(volume: Volume) -> FeatureVolume:
    return FeatureVolume(volume, device="cpu")


def at(volume: Volume, *voxel: float) -> tuple[float, float, float]:
    x, y, z = (volume.affine @ [*voxel, 1])[:3]
    return float(x), float(y), float(z)


def test_one_click_finds_what_is_alike_and_connected(volume: Volume, features: FeatureVolume) -> None:
    result = segment_from_prompts(volume, features, Prompts().with_point(at(volume, 17, 20, 12)))
    assert result.shape == volume.shape and result.dtype == np.uint8 and set(np.unique(result)) == {0, 1}
    assert dice_of_masks(result > 0, _ball((17, 20, 12), 10.0)) > 0.8
    assert ndimage.label(result)[1] == 1


def test_a_second_click_makes_it_better_and_undo_gives_back_what_was(
    volume: Volume, features: FeatureVolume, truth: np.ndarray
) -> None:
    one = Prompts().with_point(at(volume, 17, 20, 12))
    two = one.with_point(at(volume, 31, 24, 12))
    first, second = (segment_from_prompts(volume, features, prompts) for prompts in (one, two))
    assert dice_of_masks(second > 0, truth) > dice_of_masks(first > 0, truth) + 0.05
    assert two.without_last() == one and Prompts().without_last() == Prompts()
    np.testing.assert_array_equal(segment_from_prompts(volume, features, two.without_last()), first)
    fresh = segment_from_prompts(volume, FeatureVolume(volume, device="cpu"), two)  # nothing hangs on the cache
    np.testing.assert_array_equal(fresh, second)


def test_a_positive_click_only_adds_a_negative_one_only_removes(volume: Volume, features: FeatureVolume) -> None:
    prompts = Prompts()
    found = np.zeros(SHAPE, bool)
    for voxel, positive in (((17, 20, 12), True), ((31, 24, 12), True), ((24, 32, 12), False), ((31, 17, 12), False)):
        prompts, before = prompts.with_point(at(volume, *voxel), positive), found
        found = segment_from_prompts(volume, features, prompts) > 0
        assert found[voxel] == positive
        assert not ((before & ~found) if positive else (found & ~before)).any()
    asked = []
    segment_from_prompts(volume, features, prompts.without_last(), should_stop=lambda: bool(asked.append(1)))
    assert not asked  # undo computes nothing


def test_clicks_scribbles_and_box_hold_exactly(volume: Volume, features: FeatureVolume) -> None:
    paint = np.zeros(SHAPE, np.uint8)
    paint[10:13, 20, 12], paint[40:44, 40:42, 3] = 2, 1  # against the image on purpose
    prompts = Prompts().with_scribbles(paint).with_point(at(volume, 17, 20, 12)).with_point(at(volume, 11, 20, 12))
    result = segment_from_prompts(volume, features, prompts)
    assert result[11, 20, 12] == 1  # the later click counts
    assert not result[[10, 12], 20, 12].any() and result[40:44, 40:42, 3].all()
    low, high = (10, 12, 8), (24, 28, 16)
    boxed = segment_from_prompts(volume, features, Prompts().with_box(_ras(volume, low), _ras(volume, high)))
    inside = VoxelPrompts.on(volume, Prompts.of(box=Box(_ras(volume, low), _ras(volume, high))))
    outside = np.ones(SHAPE, bool)
    outside[tuple(slice(*ends) for ends in zip(inside.start or (), inside.stop or (), strict=True))] = False
    assert boxed.any() and not boxed[outside].any()
    assert dice_of_masks(boxed > 0, _ball((17, 20, 12), 10.0)) > 0.6


def _ras(volume: Volume, voxel: tuple[int, int, int]) -> tuple[float, float, float]:
    return at(volume, *voxel)


def test_positions_are_millimetres_of_an_oblique_grid(volume: Volume) -> None:
    assert voxel_of(volume, at(volume, 5.4, 6.6, 7.0)) == (5, 7, 7)
    permuted = Volume.from_array(np.transpose(volume.array, (2, 0, 1))[::-1], _permuted(volume), "same.nii.gz")
    np.testing.assert_allclose(permuted.array, volume.array)
    assert voxel_of(permuted, at(volume, 30, 2, 9)) == (30, 2, 9)


def _permuted(volume: Volume) -> np.ndarray:
    change = np.zeros((4, 4))
    change[2, 0], change[0, 1], change[1, 2], change[3, 3] = -1, 1, 1, 1
    change[2, 3] = SHAPE[2] - 1
    return volume.affine @ change


def test_a_correction_stays_near_the_clicks(volume: Volume, features: FeatureVolume, truth: np.ndarray) -> None:
    given = _ball((17, 20, 12), 10.0)
    given[40:46, 4:10, 5:10] = True  # a wrong part far away
    prompts = Prompts().with_point(at(volume, 31, 24, 12))
    result = segment_from_prompts(volume, features, prompts, given=given.astype(np.uint8)) > 0
    assert dice_of_masks(result, truth) > dice_of_masks(given, truth) + 0.1
    far = np.zeros(SHAPE, bool)
    far[42:, :10] = True
    assert (result[far] == given[far]).mean() > 0.95
    away = segment_from_prompts(
        volume, features, Prompts().with_point(at(volume, 43, 7, 7), positive=False), given=given.astype(np.uint8)
    )
    assert away[40:46, 4:10, 5:10].mean() < 0.5 and dice_of_masks(away > 0, _ball((17, 20, 12), 10.0)) > 0.9


def test_a_trained_networks_probability_is_where_clicks_start_from(
    volume: Volume, features: FeatureVolume, truth: np.ndarray
) -> None:
    prior = np.where(_ball((18, 20, 12), 9.0), 0.9, 0.05).astype(np.float32)
    prompts = Prompts().with_point(at(volume, 31, 24, 12))
    result = segment_from_prompts(volume, features, prompts, prior=prior)
    alone = dice_of_masks(prior > 0.5, truth)
    assert dice_of_masks(result > 0, truth) > alone + 0.05


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (Prompts(), "nothing says where"),
        (Prompts().with_point((0.0, 0.0, 0.0), positive=False), "outside of the volume"),
        (Prompts().with_point((900.0, 0.0, 0.0)), "outside of the volume"),
        (Prompts().with_point((float("nan"), 0.0, 0.0)), "is no position"),
        (Prompts().with_scribbles(np.ones((3, 3, 3), np.uint8)), "3 x 3 x 3"),
        (Prompts().with_box((900, 900, 900), (910, 910, 910)), "outside of the volume"),
    ],
)
def test_prompts_that_say_nothing_are_refused_in_words(
    prompts: Prompts, words: str, volume: Volume, features: FeatureVolume
) -> None:
    with pytest.raises(SettingsError, match=words):
        segment_from_prompts(volume, features, prompts)


def test_air_negative_clicks_alone_and_other_grids_are_refused(volume: Volume, features: FeatureVolume) -> None:
    with pytest.raises(SettingsError, match="empty background"):
        segment_from_prompts(volume, features, Prompts().with_point(at(volume, 20, 20, 22)))
    with pytest.raises(SettingsError, match="nothing says where"):
        segment_from_prompts(volume, features, Prompts().with_point(at(volume, 20, 20, 12), positive=False))
    with pytest.raises(SettingsError, match="region of interest"):
        roi = Box(at(volume, 0, 0, 0), at(volume, 9, 9, 9))
        segment_from_prompts(volume, features, Prompts().with_point(at(volume, 20, 20, 12)), roi=roi)
    with pytest.raises(LabelError, match="shape"):
        segment_from_prompts(
            volume, features, Prompts().with_point(at(volume, 20, 20, 12)), given=np.zeros((2, 2, 2), np.uint8)
        )


def test_it_tells_where_it_stands_and_stops(volume: Volume, features: FeatureVolume) -> None:
    events: list[Progress] = []
    prompts = Prompts.of([Point(at(volume, 18, 21, 12))])
    segment_from_prompts(volume, features, prompts, progress=events.append)
    assert events[0].step == 0 and events[-1].step == events[-1].total
    asked, prompts = 0, Prompts.of([Point(at(volume, 16, 19, 12))])  # others: those before are known

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    with pytest.raises(Stopped):
        segment_from_prompts(volume, features, prompts, should_stop=stop)
    assert asked == 5


def test_a_large_volume_is_worked_on_in_part_and_the_result_reaches_beyond_the_first_part(tmp_path: Path) -> None:
    image = np.zeros((40, 40, 300), np.float32) + np.random.default_rng(0).normal(0, 3, (40, 40, 300))
    image[12:28, 12:28, 20:280] += 100  # a rod of 260 voxels, far longer than the first region
    volume = Volume.from_array(image.astype(np.float32), np.eye(4), tmp_path / "rod.nii.gz")
    features = FeatureVolume(volume, device="cpu", memory=1)
    result = segment_from_prompts(volume, features, Prompts().with_point((20.0, 20.0, 150.0)))
    rod = np.zeros(volume.shape, bool)
    rod[12:28, 12:28, 20:280] = True
    assert dice_of_masks(result > 0, rod) > 0.9
    assert len(features._regions) == 1  # the memory bound holds


def test_the_cache_keeps_what_was_used_last(volume: Volume) -> None:
    made = []

    def make() -> FeatureVolume:
        made.append(1)
        return FeatureVolume(volume, device="cpu")

    cache = FeatureCache(memory=int(1.5 * volume.array.nbytes))
    first = cache.get("a", make)
    assert cache.get("a", make) is first and len(made) == 1
    cache.get("b", make)  # too much for both: the older goes
    assert cache.get("b", make) and len(made) == 2
    assert cache.get("a", make) is not first
    cache.drop("a")
    cache.get("a", make)
    assert len(made) == 4
