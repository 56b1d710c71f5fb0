"""The self-distillation head equals the reference, with its gradients and names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fm3d_core.models.dino_head import DINOHead


def test_scores_and_gradients_equal_the_reference(fixture_file: Callable[[str], Any]) -> None:
    fixture = fixture_file("dino_head.pt")
    head = DINOHead(48, prototypes=128, hidden=64, bottleneck=32)
    head.load_state_dict(fixture["state_dict"])
    tokens = fixture["x"].clone().requires_grad_()
    scores = head(tokens)
    torch.testing.assert_close(scores, fixture["y"], atol=1e-5, rtol=1e-4)
    _backward(scores, tokens, head, fixture)


def _backward(scores: torch.Tensor, tokens: torch.Tensor, head: DINOHead, fixture: dict[str, Any]) -> None:
    scores.square().mean().backward()
    torch.testing.assert_close(tokens.grad, fixture["dx"], atol=1e-8, rtol=1e-4)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, fixture["dparams"][name], atol=1e-8, rtol=1e-4)


def test_prototypes_start_at_unit_length_and_the_length_is_learned_alone() -> None:
    head = DINOHead(8, prototypes=16, hidden=12, bottleneck=4)
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(16))
    with torch.no_grad():
        head.last_layer.weight_v.mul_(3)
    torch.testing.assert_close(head.last_layer.weight.norm(dim=1), torch.ones(16))
    assert head(torch.randn(2, 5, 8)).shape == (2, 5, 16)
