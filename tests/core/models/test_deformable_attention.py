"""3D deformable attention reads the voxel it should, and 3DINO's permuted one where old weights need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.models.deformable_attention import AxisOrder, DeformableAttention3D, _gather, voxel_centres

GRIDS = [(4, 5, 6), (2, 3, 2)]


def _sampled(
    value: torch.Tensor, grids: list[tuple[int, int, int]], places: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """By PyTorch's grid_sample, level by level and head by head."""
    batch, _, heads, _ = value.shape
    total, start = [], 0
    for level, grid in enumerate(grids):
        count = grid[0] * grid[1] * grid[2]
        volume = value[:, start : start + count].permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, grid)
        points = 2 * places[:, :, :, level].flip(-1).transpose(1, 2).flatten(0, 1).unsqueeze(-2) - 1
        read = F.grid_sample(volume, points, align_corners=False)[..., 0]  # (B * H, D, Q, P)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)
        total.append((read * weight).sum(-1).unflatten(0, (batch, heads)))
        start += count
    return torch.stack(total).sum(0).permute(0, 3, 1, 2).flatten(2)


def test_gathering_equals_grid_sample_with_gradients_inside_and_outside() -> None:
    torch.manual_seed(0)
    places = (1.6 * torch.rand(2, 7, 2, 2, 3, 3) - 0.3).requires_grad_()
    value = torch.randn(2, 132, 2, 5).requires_grad_()
    weights = torch.rand(2, 7, 2, 2, 3).requires_grad_()
    mine, peer = _gather(value, GRIDS, places, weights), _sampled(value, GRIDS, places, weights)
    torch.testing.assert_close(mine, peer, atol=1e-5, rtol=1e-4)
    direction = torch.randn_like(mine)
    inputs = (value, places, weights)
    for a, b in zip(
        torch.autograd.grad(mine, inputs, direction), torch.autograd.grad(peer, inputs, direction), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("axis_order", "read"), [("corrected", "x, y, z"), ("3dino", "z, x, y")])
def test_on_a_field_of_coordinates_a_query_reads_its_own_voxel_or_the_permuted_one(
    axis_order: AxisOrder, read: str
) -> None:
    grid = (4, 4, 4)
    attention = DeformableAttention3D(width=8, heads=1, points=1, axis_order=axis_order)
    centres = voxel_centres(grid)
    with torch.no_grad():
        attention.sampling_offsets.bias.zero_()
        for layer in (attention.value_proj, attention.output_proj):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
        field = F.pad(centres, (0, 5)).unsqueeze(0)  # each voxel holds its own place
        found = attention(torch.randn(1, 64, 8), centres, field, [grid])[0, :, :3]
    order = {"x, y, z": [0, 1, 2], "z, x, y": [2, 0, 1]}[read]
    torch.testing.assert_close(found, centres[:, order])


@pytest.mark.parametrize("case", ["cube", "aniso"])
def test_queries_lie_where_the_fixtures_say_and_offsets_start_as_theirs(
    case: str, fixture_file: Callable[[str], Any]
) -> None:
    fixture = fixture_file("msda3d.pt")
    attention = DeformableAttention3D(32, levels=3, heads=8, points=4, ratio=0.5)
    assert torch.equal(attention.sampling_offsets.bias.view(8, 3, 4, 3), fixture["init_offsets_bias"])
    attention.load_state_dict(fixture["state_dict"])
    for order, axes in (("corrected", [2, 1, 0]), ("reference", [1, 0, 2])):
        expected = fixture["cases"][f"{case}_{order}"]
        grid = tuple(size // 16 for size in expected["shape"])
        torch.testing.assert_close(voxel_centres(grid)[:, axes], expected["reference_points"][0, :, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["corrected", "reference"])
@pytest.mark.parametrize("case", ["cube", "aniso"])
def test_what_queries_gather_and_its_gradients_equal_the_reference(
    case: str, order: str, fixture_file: Callable[[str], Any], parity: Any
) -> None:
    fixture = fixture_file("msda3d.pt")
    expected = fixture["cases"][f"{case}_{order}"]
    axis_order: Any = "3dino" if order == "reference" else "corrected"
    attention = DeformableAttention3D(32, levels=3, heads=8, points=4, ratio=0.5, axis_order=axis_order)
    attention.load_state_dict(fixture["state_dict"])
    grids: Any = [tuple(grid) for grid in expected["spatial_shapes"].tolist()]
    count = sum(x * y * z for x, y, z in grids)
    query = parity.det(f"msda_q_{case}", expected["y"].shape).requires_grad_()
    values = parity.det(f"msda_f_{case}", (2, count, 32)).requires_grad_()
    found = attention(query, voxel_centres(tuple(size // 16 for size in expected["shape"])), values, grids)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected["y"], atol=1e-5, rtol=1e-4)
    (found * parity.det(f"msda_g_{case}", expected["y"].shape)).sum().backward()
    torch.testing.assert_close(query.grad, expected["dq"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values.grad.sum(dim=1), expected["df_sum"], atol=1e-5, rtol=1e-4)  # type: ignore[union-attr]
    weights = attention.sampling_offsets.weight.grad
    torch.testing.assert_close(weights, expected["dw_offsets"], atol=1e-5, rtol=1e-4)


def test_an_unknown_axis_order_and_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="'corrected' or '3dino'"):
        DeformableAttention3D(32, axis_order="xyz")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a multiple of 8 heads"):
        DeformableAttention3D(36, ratio=0.25)
