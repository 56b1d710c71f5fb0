"""Decoder and bottleneck can be frozen, finetuned or new, whatever the method does with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune
from fm3d_core.adaptation.methods import PartChoice, check_method
from fm3d_core.errors import SettingsError
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask

PYRAMIDS = ["residual_unet_small", "swin_unetr_tiny", "suprem_segresnet", "suprem_unet"]


def _network(backbone: str) -> DenseNetwork:
    built = create_backbone(BackboneSpec(backbone))
    return DenseNetwork(built, SegmentationTask(("a",)).build_head(built, linear=True))


def _names(network: DenseNetwork, part: str) -> set[str]:
    starts = tuple(f"backbone.{name}." for name in network.backbone.parts()[part])
    return {name for name, _ in network.named_parameters() if name.startswith(starts)}


def _trained(network: DenseNetwork) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("backbone", PYRAMIDS)
def test_every_pyramid_names_its_parts_and_they_are_apart(backbone: str) -> None:
    network = _network(backbone)
    decoder, bottleneck = _names(network, "decoder"), _names(network, "bottleneck")
    assert decoder and bottleneck and not decoder & bottleneck
    every = {name for name, _ in network.backbone.named_parameters(prefix="backbone")}
    assert decoder | bottleneck < every


@pytest.mark.parametrize("choice", ["finetuned", "new"])
def test_a_probe_with_a_decoder_that_trains_is_no_longer_one_on_frozen_features(choice: PartChoice) -> None:
    network = _network("residual_unet_small")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    method = check_method("linear_probe", choice)
    assert not method.frozen_backbone and method.learning_rate < check_method("linear_probe").learning_rate
    method.apply(network)
    assert _trained(network) == _names(network, "decoder") | {
        f"head.{name}" for name, _ in network.head.named_parameters()
    }
    weights = {name for name in _names(network, "decoder") if before[name].ndim == 5}
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert weights <= changed <= _names(network, "decoder") if choice == "new" else not changed


def test_parts_can_be_frozen_under_full_and_finetuned_under_lora() -> None:
    network = _network("swin_unetr_tiny")
    check_method("full", "frozen", "frozen").apply(network)
    kept = _names(network, "decoder") | _names(network, "bottleneck")
    assert _trained(network) == {name for name, _ in network.named_parameters()} - kept

    network = _network("swin_unetr_tiny")
    check_method("lora", "finetuned").apply(network)
    assert _names(network, "decoder") < _trained(network) and not _names(network, "bottleneck") & _trained(network)
    assert any("lora_A" in name for name in _trained(network))


@pytest.mark.parametrize(("method", "decoder"), [("linear_probe", "finetuned"), ("lora", "new"), ("full", "frozen")])
def test_what_was_trained_comes_back_from_the_file(
    method: str, decoder: PartChoice, synthetic_cases: list[LabeledCase], task: SegmentationTask, tmp_path: Path
) -> None:
    stages: list[Adapter] = []
    settings = FinetuneSettings(method=method, decoder=decoder, steps=2, device="cpu")
    adapter = finetune(synthetic_cases[:1], task, settings, on_stage=stages.append)
    assert (adapter.card.decoder, adapter.card.bottleneck) == (decoder, "auto")
    # a head that was solved for a new decoder's features would be of no use without that decoder
    assert len(stages) == (0 if decoder == "new" else 1)
    network = Adapter.load(adapter.save(tmp_path / "a")).build_network()
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in adapter.tensors.items())
    assert any(name.startswith("backbone.decoder.") for name in adapter.tensors) == (decoder != "frozen")
    for stage in stages:
        stage.build_network()


def test_a_vit_has_no_decoder_of_its_own_and_unknown_choices_are_refused() -> None:
    with pytest.raises(SettingsError, match="no decoder of its own"):
        check_method("linear_probe", "finetuned").apply(_network("vit_light_8"))
    with pytest.raises(SettingsError, match="decoder"):
        FinetuneSettings(decoder="half")  # type: ignore[arg-type]


def test_scratch_begins_with_random_weights_and_refuses_others(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    adapter = finetune(synthetic_cases[:1], task, FinetuneSettings(method="scratch", steps=1, device="cpu"))
    assert adapter.card.backbone.weights is None
    full = finetune(synthetic_cases[:1], task, FinetuneSettings(steps=1, device="cpu"))
    assert full.card.backbone.weights is not None  # those that come with FM3D
    with pytest.raises(SettingsError, match="scratch begins with random weights"):
        FinetuneSettings(method="scratch", weights=Path("fm3d_small"))
