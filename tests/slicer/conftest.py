"""Slicer for the module's tests: the real one where they run inside it, otherwise ``tests/slicer_env``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import slicer_env

slicer_env.install()


@pytest.fixture(autouse=True)
def fresh_scene():
    """One scene serves the whole process; each test finds it empty."""
    slicer_env.clear_scene()
    yield
    slicer_env.clear_scene()
