"""The parity fixtures (../shared/parity): numbers of the reference implementations on deterministic weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def parity(parity_folder: Path) -> Any:
    """The rules that rebuild the fixtures' inputs and weights."""
    sys.path.insert(0, str(parity_folder))
    import parity_rules

    return parity_rules


@pytest.fixture(scope="session")
def fixture_file(parity_folder: Path) -> Callable[[str], Any]:
    """Load a fixture by file name."""
    return lambda name: torch.load(parity_folder / name, weights_only=True)


@pytest.fixture(scope="session")
def fill(parity: Any) -> Callable[..., None]:
    """Fill a module with the fixtures' weights; deformable offsets as the fixtures' README says."""

    def fill(module: nn.Module, prefix: str, reference_name: Callable[[str], str] = str, offsets: float = 0.02) -> None:
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                key = reference_name(name)
                if key.endswith("sampling_offsets.bias"):
                    continue  # as constructed
                if key.endswith("sampling_offsets.weight"):
                    tensor.copy_(parity.det(prefix + key, tuple(tensor.shape), offsets))
                elif (value := parity.value_for(key, tuple(tensor.shape), prefix)) is not None:
                    tensor.copy_(value)

    return fill
