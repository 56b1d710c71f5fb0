"""Fixtures shared by all tests: where the real volumes lie, and a quiet, deterministic environment."""

from __future__ import annotations

import os
from pathlib import Path

# one thread per test process: two workers that spin for each other's cores are many times slower
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
PARITY = REPOSITORY.parent / "shared" / "parity"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes; tests that need it skip with a message where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real volumes not found at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    """The folder of the reference implementations' tensors; tests that need it skip with a message without it."""
    if not PARITY.is_dir():
        pytest.skip(f"parity fixtures not found at {PARITY}")
    return PARITY


@pytest.fixture(autouse=True)
def fm3d_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FM3D's own folder is a fresh temporary one, so that no test touches the user's."""
    home = tmp_path / "fm3d_home"
    monkeypatch.setenv("FM3D_HOME", str(home))
    return home
