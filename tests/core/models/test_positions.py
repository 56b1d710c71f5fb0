"""Position embeddings on another grid: 3DINO's conversion of a checkpoint, and a plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.models.positions import resize_position_embedding


@pytest.mark.parametrize(("before", "after"), [(3, 4), (6, 7)])
def test_a_checkpoint_is_converted_to_high_resolution_as_the_reference_does(
    before: int, after: int, fixture_file: Callable[[str], Any]
) -> None:
    fixture = fixture_file("pos_embed_highres.pt")
    found = resize_position_embedding(fixture[f"in_{before}"], (after, after, after))
    torch.testing.assert_close(found, fixture[f"out_{after}"], atol=1e-6, rtol=1e-5)
    plain = resize_position_embedding(fixture[f"in_{before}"], (after, after, after), "plain")
    assert (plain - fixture[f"out_{after}"]).abs().max() > 1e-3


def test_the_plain_conversion_is_trilinear_interpolation_of_each_channel() -> None:
    embedding = torch.randn(1, 1 + 27, 5)
    found = resize_position_embedding(embedding, (2, 5, 3), "plain")
    cube = embedding[0, 1:, 2].reshape(1, 1, 3, 3, 3)
    expected = F.interpolate(cube, size=(2, 5, 3), mode="trilinear", align_corners=False).flatten()
    torch.testing.assert_close(found[0, 1:, 2], expected)
    assert torch.equal(found[:, :1], embedding[:, :1])


def test_positions_that_are_no_cube_are_refused() -> None:
    with pytest.raises(ValueError, match="26 positions are not a cube"):
        resize_position_embedding(torch.randn(1, 27, 5), (3, 3, 3))
