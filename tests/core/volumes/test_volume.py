"""The Volume: canonical axes and the exact way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fm3d_core.volumes import Volume

AXIS_ORDERS = list(itertools.permutations(range(3)))


def signed_permutation(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)] * np.array(flips) * (0.7, 1.1, 3.0)
    affine[:3, 3] = (-20, 31, 7)
    return affine


@pytest.mark.parametrize("order", AXIS_ORDERS)
@pytest.mark.parametrize("flips", itertools.product((1, -1), repeat=3))
def test_every_axis_order_becomes_ras_and_goes_back_without_changing_a_voxel(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    affine = signed_permutation(order, flips)

    volume = Volume.from_array(array, affine, "case.nii")

    matrix = volume.affine[:3, :3]
    assert (np.diag(matrix) > 0).all() and np.count_nonzero(np.abs(matrix) > 1e-12) == 3
    np.testing.assert_array_equal(volume.to_source(volume.array), array)


@pytest.mark.parametrize("seed", range(8))
def test_a_voxel_keeps_its_place_in_the_world_also_when_oblique(seed: int) -> None:
    from scipy.spatial.transform import Rotation

    random = np.random.default_rng(seed)
    array = random.permutation(3 * 4 * 5).reshape(3, 4, 5).astype(np.float32)
    affine = signed_permutation(AXIS_ORDERS[seed % 6], tuple(random.choice([-1, 1], 3)))
    affine[:3, :3] = Rotation.from_euler("xyz", random.uniform(-20, 20, 3), degrees=True).as_matrix() @ affine[:3, :3]

    volume = Volume.from_array(array, affine, "case.nii")

    for value in (0, 17, 59):
        in_file, in_ras = (np.argwhere(a == value)[0] for a in (array, volume.array))
        np.testing.assert_allclose(affine @ [*in_file, 1], volume.affine @ [*in_ras, 1], atol=1e-9)


def test_spacing_follows_the_ras_axes_and_the_name_has_no_suffix() -> None:
    volume = Volume.from_array(
        np.zeros((4, 5, 6), np.float32), signed_permutation((2, 0, 1), (1, -1, 1)), "a/b.1.nii.gz"
    )
    assert volume.spacing == pytest.approx((3.0, 0.7, 1.1))
    assert volume.shape == (6, 4, 5)
    assert volume.name == "b.1"


def test_an_array_of_another_shape_is_not_brought_back() -> None:
    volume = Volume.from_array(np.zeros((4, 5, 6), np.float32), np.eye(4), "case.nii")
    with pytest.raises(ValueError, match="shape"):
        volume.to_source(np.zeros((4, 5, 7)))
