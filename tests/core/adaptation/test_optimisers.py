"""Muon for kernels: what it changes, by how much, and where AdamW is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fm3d_core.adaptation import FinetuneSettings
from fm3d_core.adaptation.optimisers import KERNEL_RATE, Steps
from fm3d_core.errors import SettingsError


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.ReLU(), nn.Conv3d(8, 2, 1))


def _stepped(network: nn.Module, optimiser: str, count: int = 1) -> list[float]:
    steps = Steps(optimiser, list(network.parameters()), 1e-3, 0.0)  # type: ignore[arg-type]
    image = torch.randn(2, 4, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    target = image[:, 0] > 0
    losses = []
    for _ in range(count):
        steps.zero_grad()
        loss = nn.functional.cross_entropy(network(image), target.long())
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_kernel_gets_an_orthogonal_update_of_the_size_of_adamws() -> None:
    network = _network()
    before = [each.detach().clone() for each in network.parameters()]
    _stepped(network, "muon")
    kernel, _, classifier, _ = (now.detach() - then for now, then in zip(network.parameters(), before, strict=True))
    update = kernel.flatten(1) / (1e-3 * KERNEL_RATE)
    # 0.2 sqrt(max(rows, columns)) times a matrix whose singular values lie near 1 (Newton-Schulz: 0.7 to 1.2)
    singular = torch.linalg.svdvals(update) / (0.2 * (4 * 27) ** 0.5)
    assert singular.min() > 0.5 and singular.max() < 1.3
    assert update.square().mean().sqrt() == pytest.approx(0.2, abs=0.05)
    # AdamW's first step is the learning rate, up or down
    assert classifier.abs().numpy() == pytest.approx(1e-3, rel=0.02)


def test_the_layout_in_memory_does_not_matter() -> None:
    plain, last = _network(), _network().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    assert not last[0].weight.is_contiguous()
    for network in (plain, last):
        _stepped(network, "muon", 3)
    torch.testing.assert_close(plain[0].weight, last[0].weight, atol=5e-4, rtol=0)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_it_learns(optimiser: str) -> None:
    losses = _stepped(_network(), optimiser, 40)
    assert losses[-1] < 0.8 * losses[0]


def test_without_any_kernel_all_is_adamws() -> None:
    linear = nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    steps = Steps("muon", list(linear.parameters()), 1e-2, 0.0)
    linear(torch.ones(1, 3)).sum().backward()
    steps.set_rate(1e-3)
    steps.step()
    assert (linear.weight - before).abs().detach().numpy() == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "muon"),
        ({"method": "scratch"}, "muon"),
        ({"method": "lora"}, "adamw"),
        ({"learning_rate": 1e-3}, "adamw"),  # a rate that is given is AdamW's
        ({"learning_rate": 1e-3, "optimiser": "muon"}, "muon"),
        ({"decoder": "new"}, "muon"),
        ({"optimiser": "adamw"}, "adamw"),
    ],
)
def test_which_one_trains(settings: dict[str, object], expected: str) -> None:
    assert FinetuneSettings(**settings).chosen_optimiser() == expected  # type: ignore[arg-type]


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"optimiser is sgd.*adamw, muon"):
        FinetuneSettings(optimiser="sgd")  # type: ignore[arg-type]
