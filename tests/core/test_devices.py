"""Precision: what leaves bfloat16, and gradients that are right whatever memory held before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fm3d_core.devices import autocast, cpu_has_bfloat16
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask

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


@pytest.mark.skipif(not cpu_has_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("layer", [nn.Conv3d(8, 8, 1), nn.ConvTranspose3d(8, 8, 2, stride=2)])
def test_convolutions_on_fewer_than_64_voxels_are_computed_exactly_in_training(layer: nn.Module) -> None:
    image = torch.randn(1, 8, 2, 2, 1)
    exact = layer(image)
    with autocast(CPU):
        found = layer(image)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.to(torch.bfloat16))


def test_gradients_of_a_decoder_above_four_tokens_are_numbers() -> None:
    backbone = create_backbone(BackboneSpec("vit_tiny"))
    network = DenseNetwork(backbone, SegmentationTask(("a",)).build_head(backbone, "unetr"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # with one it was never seen
    try:
        for _ in range(12):
            network.zero_grad(set_to_none=True)
            with autocast(CPU):
                scores = network(torch.rand(1, 1, 32, 32, 16))
            scores.float().square().mean().backward()
            assert all(bool(each.grad.isfinite().all()) for each in network.parameters() if each.grad is not None)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [(13, 13, 2), (16, 16, 2), (9, 9, 2)])
def test_strided_convolutions_on_few_slices_are_right_in_half_precision(size: tuple[int, int, int]) -> None:
    convolution = nn.Conv3d(32, 64, 3, stride=2, padding=1).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    image = torch.randn(1, 32, *size).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        exact = convolution(image)
        with autocast(CPU):
            found = convolution(image)
    assert float((found.float() - exact).abs().max()) < 0.03 * float(exact.abs().max())
