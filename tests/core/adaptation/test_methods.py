"""Each method trains what it says, and nothing else."""

from __future__ import annotations

import pytest
import torch

from fm3d_core.adaptation.methods import METHODS, LoRA, check_method
from fm3d_core.errors import SettingsError
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask


def _network(backbone: str, linear: bool = False) -> DenseNetwork:
    built = create_backbone(BackboneSpec(backbone))
    return DenseNetwork(built, SegmentationTask(("a",)).build_head(built, linear=linear)).eval()


def _trained(network: DenseNetwork) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("backbone", ["residual_unet_small", "swin_unetr_tiny", "suprem_segresnet", "vit_tiny"])
def test_lora_starts_as_the_plain_network_and_trains_only_its_updates_and_the_head(backbone: str) -> None:
    network = _network(backbone)
    targets = network.backbone.lora_targets()
    image = torch.randn(1, 1, 32, 32, 32) if backbone != "swin_unetr_tiny" else torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        before = network(image)
        LoRA().apply(network)
        torch.testing.assert_close(network(image), before, atol=1e-5, rtol=1e-4)
    trained = _trained(network)
    updates = {name for name in trained if not name.startswith("head.")}
    assert all(".lora_A." in name or ".lora_B." in name for name in updates)
    assert len(updates) == 2 * len(targets)
    assert trained - updates == {f"head.{name}" for name, _ in network.head.named_parameters()}


def test_the_linear_probe_freezes_the_backbone() -> None:
    network = _network("residual_unet_small", linear=True)
    check_method("linear_probe").apply(network)
    assert _trained(network) == {f"head.{name}" for name, _ in network.head.named_parameters()}


def test_full_trains_everything() -> None:
    network = _network("vit_tiny")
    check_method("full").apply(network)
    assert _trained(network) == {name for name, _ in network.named_parameters()}


def test_every_method_explains_itself_and_an_unknown_one_is_refused() -> None:
    assert all(method.name == name and method.about for name, method in METHODS.items())
    with pytest.raises(SettingsError, match=r"unknown method 'magic'.*full, lora, linear_probe"):
        check_method("magic")
