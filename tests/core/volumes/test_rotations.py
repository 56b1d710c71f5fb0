"""Rotations beside SciPy's, and the random ones of training as they always were for a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fm3d_core.adaptation.augmentation import Augmentation, crop_positions
from fm3d_core.pretraining.synthetic_anatomy.random_numbers import rotation
from fm3d_core.volumes.rotations import turned


def scipys(angles: torch.Tensor) -> torch.Tensor:
    """The same from SciPy, whose angle about the second axis goes from the third to the first."""
    x, y, z = angles.double().tolist()
    return torch.from_numpy(Rotation.from_euler("xyz", [x, -y, z]).as_matrix())


@pytest.mark.parametrize(("axis", "source", "target"), [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_a_quarter_turn_takes_the_lower_axis_to_the_higher_one(axis: int, source: int, target: int) -> None:
    angles = torch.zeros(3)
    angles[axis] = math.pi / 2
    found = turned(torch.eye(3), angles)
    assert torch.allclose(found[:, source], torch.eye(3)[target], atol=1e-6)
    assert torch.allclose(found[:, axis], torch.eye(3)[axis], atol=1e-6)


def test_three_angles_and_a_map_before_them_are_as_in_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        angles = torch.from_numpy(generator.uniform(-3, 3, 3)).float()
        matrix = torch.from_numpy(generator.normal(size=(3, 3))).float()
        assert torch.allclose(turned(matrix, angles).double(), scipys(angles) @ matrix.double(), atol=1e-5)


def test_the_random_rotations_of_a_seed_stay_as_they_are() -> None:
    angles = 0.7 * (2 * torch.rand(3, generator=torch.Generator().manual_seed(4)) - 1)
    found = rotation(0.7, torch.Generator().manual_seed(4))
    assert torch.allclose(found.double(), scipys(angles), atol=1e-6)

    augmentation = Augmentation(rotation=0.7, scale=0.2, shift=0, probability=0)
    positions = crop_positions((3, 3, 3), torch.zeros(3), augmentation, torch.Generator().manual_seed(4))
    drawn = 2 * torch.rand(3, generator=(stream := torch.Generator().manual_seed(4))) - 1
    scales = 1 + 0.2 * (2 * torch.rand(3, generator=stream) - 1)
    expected = scipys(0.7 * drawn) @ torch.diag(scales).double()
    columns = torch.stack([positions[2, 1, 1], positions[1, 2, 1], positions[1, 1, 2]], dim=1)  # unit steps
    assert torch.allclose(columns.double(), expected, atol=1e-6)
