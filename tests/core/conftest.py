"""Small synthetic cases on disk, and quick settings, for the tests of adaptation, inference and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm3d_core.adaptation import FinetuneSettings, LabeledCase
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import SYNTHETIC_LABELS, write_synthetic_cases


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, labels/ and labels.json of four drawn cases."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_cases(folder, 4, seed=5, shape=(32, 32, 24))
    return folder


@pytest.fixture(scope="session")
def synthetic_cases(synthetic_folder: Path) -> list[LabeledCase]:
    images = sorted((synthetic_folder / "images").iterdir())
    return [LabeledCase(path.name[:-7], path, synthetic_folder / "labels" / path.name) for path in images]


@pytest.fixture
def task() -> SegmentationTask:
    return SegmentationTask(SYNTHETIC_LABELS)


@pytest.fixture
def quick() -> FinetuneSettings:
    return FinetuneSettings(steps=2, device="cpu")
