"""Precision: what leaves bfloat16, and gradients that are right whatever memory held before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fm3d_core.devices import autocast, cpu_has_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((2, 4, 4), 3, 1), ((2, 2, 2), 3, 1), ((8, 1, 4), 3, 2), ((4, 6, 6), 5, 1), ((6, 2, 8), 7, 1), ((12, 8, 8), 3, 1)],
)
def test_gradients_of_convolutions_on_few_voxels_are_right_in_half_precision(
    size: tuple[int, int, int], kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv3d(16, 32, kernel, stride=stride, padding=kernel // 2)
    image = torch.randn(2, 16, *size)
    exact = torch.autograd.grad(convolution(image).square().sum(), list(convolution.parameters()))
    for _ in range(3):
        rubbish = [torch.full((count,), 1e30) for count in (32 * 16 * kernel**3, 32)]
        del rubbish  # the next tensors get this memory
        with autocast(CPU):
            found = torch.autograd.grad(convolution(image).float().square().sum(), list(convolution.parameters()))
        for one, other in zip(found, exact, strict=True):
            assert float((one - other).abs().max()) < 0.03 * float(other.abs().max())


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this processor has no bfloat16")
def test_other_convolutions_stay_in_half_precision() -> None:
    convolution = nn.Conv3d(1, 4, 3, padding=1)
    with autocast(CPU):
        assert convolution(torch.rand(1, 1, 8, 8, 8)).dtype == torch.bfloat16
        assert convolution(torch.rand(1, 1, 2, 8, 8)).dtype == torch.bfloat16
        with torch.no_grad():
            assert convolution(torch.rand(1, 1, 2, 8, 8)).dtype == torch.bfloat16
