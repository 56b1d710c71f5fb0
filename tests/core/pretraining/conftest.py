"""The reference's fixtures; tests that need them skip with a message where they are absent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def parity_file(parity_folder: Path) -> Callable[[str], Any]:
    """Loads a fixture by name."""
    return lambda name: torch.load(parity_folder / name, weights_only=True)


@pytest.fixture(scope="session")
def parity_rules(parity_folder: Path) -> Any:
    """The rules that rebuild inputs and weights from their names."""
    sys.path.insert(0, str(parity_folder))
    import parity_rules

    return parity_rules


@pytest.fixture(scope="session")
def losses(parity_file: Callable[[str], Any]) -> dict[str, Any]:
    """Values and gradients of the reference's losses."""
    return parity_file("losses.pt")
