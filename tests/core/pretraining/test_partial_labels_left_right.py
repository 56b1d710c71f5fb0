"""Splitting what is labelled as one: compared with real labels that tell the sides apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fm3d_core.errors import SettingsError
from fm3d_core.pretraining.partial_labels.left_right import body_middle, split_left_right
from fm3d_core.volumes import Preprocessing, read_label, read_volume

RIGHT, LEFT = 2, 3  # kidneys of BTCV


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * float((one & two).sum()) / max(1, int(one.sum() + two.sum()))


@pytest.mark.parametrize("case", ["btcv_00", "btcv_07", "btcv_13"])
def test_kidneys_of_real_scans_are_told_apart(shared_data: Path, case: str) -> None:
    """Whole scans: both rules are right, so left is where x is small. A fifth cut off: only the default is."""
    folder = shared_data / "abdomen/btcv_ct"
    preprocessing = Preprocessing(spacing=(4, 4, 4), window=(-175, 250))
    prepared = preprocessing.prepare(read_volume(folder / f"images/{case}.nii.gz"))
    truth = preprocessing.prepare_label(read_label(folder / f"labels/{case}.nii.gz"), prepared)[0].numpy()
    image = prepared.image[0].numpy()
    merged = np.where(truth == LEFT, RIGHT, truth).astype(np.int16)
    for rule in ("components", "published"):
        split = split_left_right(merged, {RIGHT: LEFT}, image, rule)  # type: ignore[arg-type]
        assert dice(split == LEFT, truth == LEFT) > 0.999 and dice(split == RIGHT, truth == RIGHT) > 0.999
    cut = len(truth) // 5
    split = split_left_right(merged[cut:], {RIGHT: LEFT}, image[cut:], "components")
    assert dice(split == LEFT, truth[cut:] == LEFT) > 0.999
    if case == "btcv_13":
        split = split_left_right(merged[cut:], {RIGHT: LEFT}, image[cut:], "published")
        assert dice(split == LEFT, truth[cut:] == LEFT) < 0.99


def test_a_piece_over_the_middle_is_cut_at_the_middle_of_the_body() -> None:
    image = np.full((20, 8, 8), -1.0, np.float32)
    image[4:18] = 1.0  # the body, its middle between 10 and 11; the image's between 9 and 10
    assert body_middle(image) == 11.0
    label = np.zeros((20, 8, 8), np.int16)
    label[8:14, 3:5, 3:5] = 1  # grown together over the middle
    split = split_left_right(label, {1: 300}, image)
    assert (split[8:11, 3:5, 3:5] == 300).all() and (split[11:14, 3:5, 3:5] == 1).all()
    published = split_left_right(label, {1: 300}, image, "published")
    assert (published[8:10, 3:5, 3:5] == 300).all() and (published[10:14, 3:5, 3:5] == 1).all()
    assert (label <= 1).all()  # the input stays


def test_other_values_stay_and_an_unknown_rule_is_refused() -> None:
    image, label = np.zeros((6, 4, 4), np.float32), np.full((6, 4, 4), 5, np.int16)
    assert split_left_right(label, {1: 2}, image) is label
    with pytest.raises(SettingsError, match="components, published"):
        split_left_right(label, {5: 2}, image, "mirror")  # type: ignore[arg-type]
