"""Results lie on the input's own grid, whatever its size, axes and spacing."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, LabeledCase, untrained_adapter
from fm3d_core.errors import Stopped
from fm3d_core.inference import Predictor
from fm3d_core.inference.sliding_window import sliding_window_scores
from fm3d_core.progress import Progress, ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing, Volume, read_volume, write_label


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    task = SegmentationTask(("a", "b"), Preprocessing(spacing=(1.5, 1.5, 2.0)))
    return Predictor(untrained_adapter(task, FinetuneSettings(method="linear_probe")), "cpu")


@pytest.mark.parametrize(
    "name", ["ok_tiny_4x5x7.nii.gz", "ok_orientation_AIL_slope.nii.gz", "ok_oblique39_hitachi_4slices.nii.gz"]
)
def test_a_real_odd_file_gets_a_segmentation_on_its_own_grid(
    name: str, predictor: Predictor, shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "robustness" / name
    volume = read_volume(path)
    result = nib.load(write_label(tmp_path / "result.nii.gz", predictor.segment(volume), like=volume))
    original = nib.load(path)
    assert result.shape == original.shape[:3]
    np.testing.assert_allclose(result.affine, original.affine, atol=1e-4)


def test_thick_slices_and_a_volume_smaller_than_a_window_are_segmented(predictor: Predictor) -> None:
    for shape, spacing in (((40, 36, 3), (0.5, 0.5, 8.0)), ((5, 3, 2), (1.0, 1.0, 1.0))):
        array = np.random.default_rng(0).random(shape, np.float32)
        volume = Volume.from_array(array, np.diag([*spacing, 1.0]), "thick.nii.gz")
        result = predictor.segment(volume)
        assert result.shape == shape and result.dtype == np.uint8


class _Mean(torch.nn.Module):
    """A "network" with a known answer: each voxel's score is the voxel itself."""

    def forward(self, image: torch.Tensor, spacing: object = None) -> torch.Tensor:
        return torch.cat([-image, image], dim=1)


def test_windows_are_blended_to_the_answer_of_the_whole_volume() -> None:
    image = torch.rand(1, 37, 20, 55) * 2 - 1
    events: list[Progress] = []
    scores = sliding_window_scores(
        _Mean(),  # type: ignore[arg-type]
        image,
        (16, 24, 16),
        torch.device("cpu"),
        progress=events.append,
        should_stop=never_stop,
    )
    torch.testing.assert_close(scores[1:], image, atol=1e-2, rtol=0)
    assert events[-1].step == events[-1].total > 8 and events[-1].eta == 0


def test_a_segmentation_can_be_cancelled_between_windows() -> None:
    answers = iter([False, False, True])
    with pytest.raises(Stopped, match="Segmentation was cancelled"):
        sliding_window_scores(
            _Mean(),  # type: ignore[arg-type]
            torch.zeros(1, 64, 64, 64),
            (32, 32, 32),
            torch.device("cpu"),
            progress=ignore_progress,
            should_stop=lambda: next(answers),
        )


def test_the_answer_does_not_depend_on_the_axis_order_of_the_file(
    predictor: Predictor, synthetic_cases: list[LabeledCase], tmp_path: Path
) -> None:
    original = nib.load(synthetic_cases[0].image)
    turned = original.as_reoriented(nib.orientations.axcodes2ornt("SAL"))
    nib.save(turned, tmp_path / "turned.nii.gz")
    results = []
    for path in (synthetic_cases[0].image, tmp_path / "turned.nii.gz"):
        volume = read_volume(path)
        written = write_label(tmp_path / f"result_{path.name}", predictor.segment(volume), like=volume)
        results.append(np.asarray(nib.as_closest_canonical(nib.load(written)).dataobj))
    assert np.array_equal(*results)
