"""What the end-to-end tests share: the Slicer module's own client on the import path, and real hippocampi."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason='MONAI Label is not installed: pip install "fm3d[server]"')

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "SlicerFM3D"))


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The folder of MSD's hippocampi."""
    folder = REPOSITORY.parent / "shared" / "data" / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"real volumes not found at {folder}")
    return folder
