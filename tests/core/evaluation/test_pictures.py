"""The comparison picture, judged by its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fm3d_core.errors import StorageError
from fm3d_core.evaluation import ComparisonRow, draw_comparison


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def colored(picture: np.ndarray) -> np.ndarray:
    """Where the picture is not gray."""
    return np.ptp(picture, axis=-1) > 0.2


def row(**changes: object) -> ComparisonRow:
    image = np.random.default_rng(0).normal(100, 10, (30, 40, 12))
    label = np.zeros((30, 40, 12), np.uint8)
    label[20:28, 30:38, 4] = 1  # right front of the patient
    values = {"name": "case 1", "image": image, "truth": label, "prediction": label, "spacing": (1.0, 1.0, 5.0)}
    return ComparisonRow(**(values | changes))  # type: ignore[arg-type]


def test_the_patients_right_is_on_the_left_and_the_front_is_up(tmp_path: Path) -> None:
    empty = np.zeros((30, 40, 12), np.uint8)
    picture = pixels(draw_comparison(tmp_path / "new" / "a.png", [row(prediction=empty)], ["liver"]))
    height, width = picture.shape[:2]
    rows, columns = np.nonzero(colored(picture)[: int(0.9 * height)])  # without the legend
    assert rows.size > 100
    assert width / 3 < columns.min() and columns.max() < width / 2  # left half of the middle panel
    assert rows.max() < height / 2


def test_a_picture_is_drawn_without_truth_and_with_a_constant_image(tmp_path: Path) -> None:
    rows = [
        row(truth=None, dice={}),
        row(image=np.zeros((30, 40, 12)), dice={"liver": 0.5}),
        row(dice={"liver": float("nan")}),
    ]
    picture = pixels(draw_comparison(tmp_path / "a.png", rows, ["liver"]))
    assert picture.shape[0] > picture.shape[1] and colored(picture).any()


@pytest.mark.parametrize(("spacing", "ratio"), [((1.0, 1.0, 1.0), 40 / 30), ((2.0, 1.0, 1.0), 40 / 60)])
def test_panels_have_the_proportions_of_the_patient(
    tmp_path: Path, spacing: tuple[float, float, float], ratio: float
) -> None:
    full = np.ones((30, 40, 12), np.uint8)
    picture = pixels(
        draw_comparison(tmp_path / "a.png", [row(truth=full, prediction=full, spacing=spacing)], ["liver"])
    )
    mask = colored(picture)
    middle = mask[:, picture.shape[1] // 2].nonzero()[0]
    panel = mask[middle[0] + 5].nonzero()[0]
    width = (panel[-1] - panel[0]) / 2.02  # truth and prediction, with a narrow gap between
    tall = np.count_nonzero(np.diff(middle) == 1)
    legend = 12
    assert (tall - legend) / width == pytest.approx(ratio, rel=0.12)


def test_a_picture_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        draw_comparison(tmp_path / "file" / "folder" / "a.png", [row()], ["liver"])
