"""A small crop store, and the configuration of a tiny run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_processes import TINY

from fm3d_core.pretraining.run_log import read_metrics
from fm3d_core.pretraining.settings import PretrainSettings, read_configuration
from fm3d_core.volumes import write_synthetic_cases
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder


@pytest.fixture(scope="session")
def crop_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn volumes of about 32^3 voxels."""
    folder = tmp_path_factory.mktemp("crop_store")
    write_synthetic_cases(folder / "volumes", 6, shape=(34, 32, 30))
    build_crop_store(scan_folder(folder / "volumes").volumes, folder / "store", workers=1)
    return folder / "store"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The configuration file of a tiny run of 60 steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def tiny_settings(tiny: Path) -> Callable[..., PretrainSettings]:
    """The same, read, with overrides."""
    return lambda *overrides: read_configuration(tiny, overrides)


@pytest.fixture
def curve() -> Callable[[Path], list[dict[str, Any]]]:
    """The log of a run without what the clock says."""
    from fm3d_core.pretraining.engine import MEASURED

    return lambda run: [
        {name: value for name, value in record.items() if name not in MEASURED}
        for record in read_metrics(run / "metrics.jsonl")
    ]
