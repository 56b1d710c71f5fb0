"""Each head can be chosen, trains with each method it goes with, comes back from the adapter, and refuses in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune, untrained_adapter
from fm3d_core.adaptation.methods import check_method
from fm3d_core.errors import SettingsError
from fm3d_core.inference import Predictor
from fm3d_core.models.decoders import UNETRHead, ViTAdapterHead
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.light_decoder import LightDecoder
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume

KINDS = {"linear": LinearHead, "light": LightDecoder, "unetr": UNETRHead, "vit_adapter": ViTAdapterHead}


@pytest.mark.parametrize(
    ("head", "method"),
    [
        ("linear", "full"),
        ("light", "lora"),
        ("unetr", "linear_probe"),
        ("vit_adapter", "full"),
        ("vit_adapter", "lora"),
        ("vit_adapter", "linear_probe"),
    ],
)
def test_a_chosen_head_trains_and_comes_back_with_the_same_answers(
    head: str, method: str, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    settings = FinetuneSettings(method=method, backbone="vit_tiny", head=head, steps=2, batch_size=1, device="cpu")
    adapter = finetune(synthetic_cases[:1], task, settings)
    assert adapter.card.head == head and isinstance(adapter.build_network().head, KINDS[head])
    assert not any("vit_model" in name for name in adapter.tensors)
    if method == "linear_probe":
        assert not any(name.startswith("backbone.") for name in adapter.tensors)
    again = Adapter.load(adapter.save(tmp_path / "adapter"))
    volume = read_volume(synthetic_cases[3].image)
    assert np.array_equal(Predictor(adapter).segment(volume), Predictor(again).segment(volume))


def test_stochastic_depth_is_drawn_from_the_seed(synthetic_cases: list[LabeledCase], task: SegmentationTask) -> None:
    settings = FinetuneSettings(method="linear_probe", backbone="vit_tiny", head="vit_adapter", steps=2, device="cpu")
    torch.manual_seed(1)
    one = finetune(synthetic_cases[:1], task, settings)
    torch.manual_seed(2)
    other = finetune(synthetic_cases[:1], task, settings)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("method", ["full", "lora", "linear_probe"])
def test_the_methods_decide_about_the_vit_below_a_vit_adapter(method: str) -> None:
    backbone = create_backbone(BackboneSpec("vit_tiny"))
    network = DenseNetwork(backbone, SegmentationTask(("a",)).build_head(backbone, "vit_adapter")).train()
    check_method(method).apply(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {f"head.{name}" for name, _ in network.head.named_parameters()} <= trained
    below = {name for name in trained if name.startswith("backbone.")}
    assert len(below) == {"full": len(list(backbone.parameters())), "lora": 48, "linear_probe": 0}[method]  # type: ignore[attr-defined]
    network(torch.rand(1, 1, 32, 32, 16) * 2 - 1).square().mean().backward()
    parameters = dict(network.named_parameters())
    assert parameters["head.network.feature_model.interactions.0.injector.gamma"].grad is not None
    if method == "lora":
        assert parameters["backbone.blocks.0.attn.qkv.lora_B.default.weight"].grad is not None


def test_an_adapter_of_before_heads_had_names_still_loads(task: SegmentationTask, tmp_path: Path) -> None:
    folder = untrained_adapter(task, FinetuneSettings(backbone="vit_tiny")).save(tmp_path / "adapter")
    card = json.loads((folder / "adapter.json").read_text())
    for part, name in ((card, "head"), (card, "notes"), (card["backbone"], "fold_channels")):
        del part[name]
    del card["task"]["preprocessing"]["input_range"]
    (folder / "adapter.json").write_text(json.dumps(card))
    adapter = Adapter.load(folder)
    assert adapter.card.head == "auto" and isinstance(adapter.build_network().head, UNETRHead)


def test_impossible_combinations_name_what_goes(task: SegmentationTask, quick: FinetuneSettings) -> None:
    for head in ("light", "unetr", "vit_adapter"):
        with pytest.raises(SettingsError, match=rf"head {head} decodes the tokens.*ResidualUNet\. Choose head linear"):
            untrained_adapter(task, replace(quick, head=head))
    with pytest.raises(SettingsError, match=r"unknown head 'magic'.*auto, linear, light, unetr, vit_adapter"):
        replace(quick, head="magic")
    with pytest.raises(SettingsError, match=r"head unetr needs patches of 16.*Choose head light"):
        task.build_head(VisionTransformer3D(width=48, depth=4, heads=3, patch_size=8), "unetr")
    with pytest.raises(SettingsError, match=r"needs at least 4 blocks.*Choose head unetr"):
        task.build_head(VisionTransformer3D(width=48, depth=2, heads=3), "vit_adapter")
