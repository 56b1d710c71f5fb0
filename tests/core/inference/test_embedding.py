"""A volume's vector: of unit length, alike for alike volumes, of the class token where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
from fm3d_core.errors import Stopped
from fm3d_core.inference import Predictor
from fm3d_core.inference.embedding import image_embedding
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import Preprocessing, Volume


@pytest.fixture(scope="module", params=[None, "vit_tiny"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    task = SegmentationTask(("a",), Preprocessing(crop_foreground=False))
    settings = FinetuneSettings(method="linear_probe", backbone=request.param, head="linear")
    return Predictor(untrained_adapter(task, settings), "cpu")


def volume_of(array: np.ndarray) -> Volume:
    return Volume.from_array(array.astype(np.float32), np.eye(4), Path("image.nii.gz"))


def test_alike_volumes_have_alike_vectors(predictor: Predictor) -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (40, 40, 40))
    smooth = np.add.outer(np.add.outer(np.arange(40), np.arange(40)), np.arange(40))
    first, second, other = (
        image_embedding(predictor, volume_of(array))
        for array in (noise, noise + random.normal(0, 0.05, noise.shape), smooth)
    )
    assert first.dtype == np.float32 and np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(first - second) < np.linalg.norm(first - other)


def test_a_large_volume_is_looked_at_in_parts_and_can_be_stopped(predictor: Predictor) -> None:
    large = volume_of(np.random.default_rng(0).normal(0, 1, (150, 150, 80)))
    assert np.isfinite(image_embedding(predictor, large)).all()
    with pytest.raises(Stopped):
        image_embedding(predictor, large, should_stop=lambda: True)
