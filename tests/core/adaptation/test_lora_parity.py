"""Query-value LoRA through peft equals the low-rank updates of 3DINO's FLARE submission, apart and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fm3d_core.adaptation.methods.query_value_lora import (
    QueryValueLoRA,
    from_peft,
    inject_query_value_lora,
    to_peft,
)
from fm3d_core.errors import SettingsError
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask


@pytest.fixture(scope="module")
def reference(parity_folder: Path) -> dict[str, Any]:
    return torch.load(parity_folder / "lora.pt", weights_only=True)


def _adapted(reference: dict[str, Any]) -> nn.ModuleDict:
    state, config = reference["state_dict_unmerged"], reference["config"]
    model = nn.ModuleDict({"qkv": nn.Linear(48, 144)})
    with torch.no_grad():
        model["qkv"].weight.copy_(state["weight"])
        model["qkv"].bias.copy_(state["bias"])
        inject_query_value_lora(model, ["qkv"], rank=config["r"], alpha=config["alpha"])
        a, b = to_peft(state["lora_A"], state["lora_B"])
        model["qkv"].lora_A["default"].weight.copy_(a)
        model["qkv"].lora_B["default"].weight.copy_(b)
    return model


def test_unmerged_and_merged_equal_the_reference(reference: dict[str, Any]) -> None:
    layer = _adapted(reference)["qkv"]
    assert layer.scaling["default"] == reference["config"]["scaling"]
    with torch.no_grad():
        torch.testing.assert_close(layer(reference["x"]), reference["y"], atol=1e-5, rtol=1e-4)
        layer.merge()
        torch.testing.assert_close(layer.weight, reference["merged_weight"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer(reference["x"]), reference["y"], atol=1e-5, rtol=1e-4)
        layer.unmerge()
        torch.testing.assert_close(layer.weight, reference["state_dict_unmerged"]["weight"], atol=1e-6, rtol=0)


def test_the_key_stays_as_it_was(reference: dict[str, Any]) -> None:
    assert torch.equal(reference["merged_weight"][48:96], reference["state_dict_unmerged"]["weight"][48:96])
    delta = _adapted(reference)["qkv"].get_delta_weight("default")
    assert delta[48:96].abs().max() == 0 and delta[:48].abs().max() > 0 and delta[96:].abs().max() > 0


def test_the_mapping_goes_there_and_back_and_refuses_what_it_cannot_say(reference: dict[str, Any]) -> None:
    state = reference["state_dict_unmerged"]
    a, b = to_peft(state["lora_A"], state["lora_B"])
    assert tuple(a.shape) == (32, 48) and tuple(b.shape) == (144, 32)
    back_a, back_b = from_peft(a, b)
    assert torch.equal(back_a, state["lora_A"]) and torch.equal(back_b, state["lora_B"])
    b[60, 3] = 1
    with pytest.raises(ValueError, match="changes the key"):
        from_peft(a, b)
    with pytest.raises(ValueError, match="not of one projection"):
        to_peft(state["lora_A"][:16], state["lora_B"])


def test_training_keeps_query_and_value_apart(reference: dict[str, Any]) -> None:
    model = _adapted(reference)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2
    optimiser = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    before = model["qkv"].lora_B["default"].weight.detach().clone()
    for _ in range(2):
        optimiser.zero_grad()
        model["qkv"](reference["x"]).pow(2).sum().backward()
        optimiser.step()
    after = model["qkv"].lora_B["default"].weight.detach()
    assert not torch.equal(after, before)
    from_peft(model["qkv"].lora_A["default"].weight.detach(), after)  # refuses anything outside of the two blocks


def _network(backbone: str) -> DenseNetwork:
    built = create_backbone(BackboneSpec(backbone))
    return DenseNetwork(built, SegmentationTask(("a",)).build_head(built)).eval()


def test_as_a_method_it_starts_as_the_plain_network_and_trains_each_projection_and_the_head() -> None:
    network = _network("vit_tiny")
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        before = network(image)
        QueryValueLoRA().apply(network)
        torch.testing.assert_close(network(image), before, atol=1e-5, rtol=1e-4)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    updates = {name for name in trained if not name.startswith("head.")}
    assert len(updates) == 2 * len(network.backbone.blocks) and all(".attn.qkv.lora_" in name for name in updates)


def test_a_backbone_without_attention_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs attention"):
        QueryValueLoRA().apply(_network("residual_unet_small"))
