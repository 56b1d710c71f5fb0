"""The linear layer by oneDNN: results and gradients are those of torch's own, and only where it may act."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fm3d_core.models.linear as module
from fm3d_core.models.linear import Linear, linear


@pytest.fixture(params=[(True, True), (True, False), (False, False)], ids=["onednn", "onednn forward", "plain"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    forward, backward = request.param
    if forward and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN product")
    monkeypatch.setattr(module, "onednn_is_quicker", lambda: forward)
    monkeypatch.setattr(module, "onednn_is_quicker_backward", lambda: backward)
    return forward


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (1, 1, 12)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_those_of_torch(onednn: bool, shape: tuple[int, ...], has_bias: bool) -> None:
    torch.manual_seed(0)
    input = torch.randn(shape, requires_grad=True)
    weight, bias = torch.randn(9, 12, requires_grad=True), torch.randn(9, requires_grad=True) if has_bias else None
    leaves = [leaf for leaf in (input, weight, bias) if leaf is not None]
    found, expected = linear(input, weight, bias), F.linear(input, weight, bias)
    assert torch.allclose(found, expected, atol=1e-5)
    outer = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, outer), torch.autograd.grad(expected, leaves, outer), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_inputs_in_any_memory_layout(onednn: bool) -> None:
    input, weight = torch.randn(12, 6).T, torch.randn(12, 5).T
    assert torch.allclose(linear(input, weight), F.linear(input, weight), atol=1e-5)


def test_frozen_weights_get_no_gradient(onednn: bool) -> None:
    layer = Linear(4, 3).requires_grad_(False)
    input = torch.randn(2, 4, requires_grad=True)
    layer(input).sum().backward()
    assert layer.weight.grad is None and torch.allclose(input.grad, layer.weight.sum(0).expand(2, 4), atol=1e-6)


def test_it_keeps_out_of_autocast_other_types_and_empty_inputs(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("must not be used here")

    monkeypatch.setattr(module._OneDNNLinear, "apply", refuse)
    weight = torch.randn(3, 4)
    assert linear(torch.randn(2, 4).bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert linear(torch.randn(2, 4).double(), weight.double()).dtype == torch.float64
    assert linear(torch.empty(0, 4), weight).shape == (0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(2, 4), weight).dtype == torch.bfloat16


def test_lora_still_finds_the_layers() -> None:
    """peft replaces torch.nn.Linear; ours is one."""
    assert isinstance(Linear(2, 3), torch.nn.Linear)
