"""Every parameter of a ViT with 24 blocks and its head gets the reference's factors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fm3d_core.models.dino_head import DINOHead
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.parameter_groups import parameter_groups, parameter_multipliers, set_step_values
from fm3d_core.pretraining.schedules import StepValues


@pytest.fixture(scope="module")
def reference(parity_folder: Path) -> dict[str, Any]:
    groups = json.loads((parity_folder / "schedules_param_groups.json").read_text())["param_groups_24_layers"]
    return {re.sub(r"blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): factors for name, factors in groups.items()}


def _model(depth: int) -> torch.nn.ModuleDict:
    backbone = VisionTransformer3D(image_size=32, width=12, depth=depth, heads=2)
    return torch.nn.ModuleDict({"backbone": backbone, "dino_head": DINOHead(12, 8, 8, 4)})


def test_all_parameters_of_a_large_model_equal_the_reference(reference: dict[str, Any]) -> None:
    model = _model(24)
    heads = {name.split(".")[0] for name in reference} - {"backbone"}
    mine = {name.replace("dino_head", next(iter(heads))): name for name, _ in model.named_parameters()}
    assert len(reference) == 351 and set(mine) == set(reference)
    for name, (rate, decay, last_layer) in reference.items():
        factors = parameter_multipliers(mine[name], 24)
        assert factors.learning_rate_factor == pytest.approx(rate, rel=1e-9), name
        assert (factors.weight_decay_factor, factors.last_layer) == (decay, last_layer), name


def test_groups_hold_each_trained_parameter_once_and_take_the_step_values(tmp_path: Path) -> None:
    model = _model(2)
    model["backbone"].mask_token.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), depth=2)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    optimiser = torch.optim.AdamW(groups)
    set_step_values(optimiser.param_groups, StepValues(1.0, 0.25, 0.5, 0.99, 0.04))
    found = {name: (group["lr"], group["weight_decay"]) for group in optimiser.param_groups for name in group["names"]}
    assert found["backbone.patch_embed.proj.weight"] == pytest.approx((0.9**3 * 0.2, 0.5))
    assert found["backbone.blocks.1.ls1.gamma"] == pytest.approx((0.9, 0.0))
    assert found["dino_head.last_layer.weight_v"] == (0.25, 0.5)
    assert found["dino_head.mlp.0.weight"] == (1.0, 0.5)
    torch.save(optimiser.state_dict(), tmp_path / "optimiser.pt")
    assert torch.load(tmp_path / "optimiser.pt", weights_only=True)["param_groups"][0]["names"]


def test_register_tokens_are_embeddings() -> None:
    assert parameter_multipliers("backbone.register_tokens", 11).learning_rate_factor == pytest.approx(0.9**12)
