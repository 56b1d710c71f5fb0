"""Synthetic volumes: varied, reproducible, and not solved by a threshold."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from fm3d_core.volumes import (
    SYNTHETIC_LABELS,
    check_label,
    draw_case,
    find_cases,
    read_label,
    read_volume,
    write_synthetic_cases,
)

SEEDS = range(8)


def test_the_same_seed_draws_the_same_volume_and_another_seed_another_one() -> None:
    first, again, other = draw_case(5), draw_case(5), draw_case(6)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_both_structures_are_there_and_apart(seed: int) -> None:
    from scipy.ndimage import label as components

    image, label, affine = draw_case(seed)
    assert image.shape == label.shape == (48, 48, 40) and np.isfinite(image).all()
    assert set(np.unique(label)) == {0, 1, 2}
    for value, smallest in ((1, 800), (2, 400)):
        mask = label == value
        _, count = components(mask)
        assert count == 1 and smallest < mask.sum() < 0.1 * mask.size
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    assert (spacing >= 0.99).all() and (spacing <= 2.61).all()
    np.testing.assert_allclose(np.abs(np.linalg.det(affine[:3, :3] / spacing)), 1)


def test_no_threshold_finds_the_structures() -> None:
    best = []
    for seed in SEEDS:
        image, label, _ = draw_case(seed)
        thresholds = np.percentile(image, np.arange(2, 100, 2))
        for value, sign in ((1, 1), (2, -1)):
            mask = label == value
            inside = [sign * image > sign * threshold for threshold in thresholds]
            best.append(max(2 * (found & mask).sum() / (found.sum() + mask.sum()) for found in inside))
    assert np.mean(best[0::2]) < 0.85 and np.mean(best[1::2]) < 0.3


def test_contrast_and_spacing_vary_and_some_are_anisotropic() -> None:
    spacings = np.array([np.linalg.norm(draw_case(seed, shape=(24, 24, 24))[2][:3, :3], axis=0) for seed in range(20)])
    assert np.ptp(spacings[:, 0]) > 0.1
    assert 1 <= (spacings[:, 2] > 1.2 * spacings[:, 0]).sum() <= 12


def test_a_case_is_drawn_quickly() -> None:
    draw_case(0)
    start = time.process_time()
    for seed in range(3):
        draw_case(seed)
    assert (time.process_time() - start) / 3 < 0.6


def test_written_cases_are_found_again_and_fit(tmp_path: Path) -> None:
    written = write_synthetic_cases(tmp_path, 3, seed=7)
    assert find_cases(tmp_path, labelled=True) == written
    names = json.loads((tmp_path / "labels.json").read_text())
    assert names == {"1": "ellipsoid", "2": "tube"} and tuple(names.values()) == SYNTHETIC_LABELS
    for case in written:
        assert case.label is not None
        label = read_label(case.label, names={int(value): name for value, name in names.items()})
        check_label(label, read_volume(case.image))
