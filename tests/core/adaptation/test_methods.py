"""Each method trains what it says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, finetune, untrained_adapter
from fm3d_core.adaptation.adapter import trained_tensors
from fm3d_core.adaptation.closed_form import can_be_solved
from fm3d_core.adaptation.methods import METHODS, LoRA, check_method
from fm3d_core.adaptation.methods.arena import ARENA, rank_scales
from fm3d_core.errors import SettingsError
from fm3d_core.models.bottlenecks import KroneckerLinear
from fm3d_core.models.half_precision import for_inference
from fm3d_core.models.heads import AdaptedHead
from fm3d_core.models.layers import LayerScale
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


# pairs in which the backbone has not what the method needs
REFUSED = {
    ("affine_ln", "residual_unet_small"),
    ("adaptformer", "residual_unet_small"),
    ("cnn_adapter", "vit_light_8"),
    ("vera", "residual_unet_small"),
    ("lora_query_value", "residual_unet_small"),
    ("compacter", "residual_unet_small"),
}
SIZES = {"residual_unet_small": (16, 16, 16), "vit_light_8": (32, 16, 16), "swin_unetr_tiny": (64, 32, 32)}
QUICK = (
    "full",
    "linear_probe",
    "black_box_adapter",
    "spatial_adapter",
    "scratch",
    "none",
)  # the larger Swin UNETR says nothing more about them
PAIRS = [
    (method, backbone)
    for method in METHODS
    for backbone in SIZES
    if not (method in QUICK and backbone == "swin_unetr_tiny")
]
# how the names of the tensors end that train in the backbone
ENDINGS: dict[str, tuple[str, ...]] = {
    "full": ("",),
    "lora": (".lora_A.default.weight", ".lora_B.default.weight"),
    "linear_probe": (),
    "bias": (".bias", ".relative_position_bias_table"),
    "affine_ln": (".weight", ".bias"),
    "black_box_adapter": (),
    "spatial_adapter": (),
    "adaptformer": (".added.down.weight", ".added.down.bias", ".added.up.weight", ".added.up.bias"),
    "cnn_adapter": (".added.weight",),
    "arena": (".lora_A.default.weight", ".parametrizations.weight.original", ".parametrizations.weight.0.scale"),
    "compacter": (".left", ".right", ".bias", ".shared"),
    "lora_late": (".lora_A.default.weight", ".lora_B.default.weight"),
    "lora_query_value": (".qkv.lora_A.default.weight", ".qkv.lora_B.default.weight"),
    "dora": (".lora_A.default.weight", ".lora_B.default.weight", ".lora_magnitude_vector.default.weight"),
    "vera": (".vera_lambda_b.default", ".vera_lambda_d.default"),
    "scratch": ("",),
    "none": (),
}


@pytest.mark.parametrize(("method", "backbone"), [pair for pair in PAIRS if pair not in REFUSED])
def test_a_method_begins_as_the_plain_network_trains_what_it_says_and_comes_back(
    method: str, backbone: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    chosen = check_method(method)
    network = _network(backbone, chosen.linear_head)
    _open_layer_scales(network)
    image = torch.rand(1, 1, *SIZES[backbone]) * 2 - 1
    with torch.no_grad():
        before = network(image)
        untouched = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
        chosen.apply(network)
        torch.testing.assert_close(network(image), before, atol=1e-4, rtol=1e-4)

    below = {name for name in _trained(network) if name.startswith("backbone.")}
    assert all(name.endswith(ENDINGS[method]) for name in below)
    assert bool(below) is not chosen.frozen_backbone
    assert {f"head.{name}" for name, _ in network.head.named_parameters()} <= _trained(network)
    after = _train(network, image)
    assert not torch.allclose(after, before, atol=1e-3)
    kept = {
        name.removeprefix("backbone."): tensor for name, tensor in network.state_dict().items() if name not in below
    }
    assert all(torch.equal(kept[name], tensor) for name, tensor in untouched.items() if name in kept)

    settings = FinetuneSettings(method=method, backbone=backbone, weights=Path("random"))
    card = untrained_adapter(SegmentationTask(("a",)), settings).card
    folder = Adapter(card, {name: tensor.contiguous() for name, tensor in trained_tensors(network).items()}).save(
        tmp_path / "a"
    )
    again = Adapter.load(folder).build_network()
    if method not in ("full", "scratch"):
        _open_layer_scales(again)
        stored = sum(tensor.nbytes for name, tensor in again.named_parameters() if name in below)
        assert stored < 0.3 * sum(parameter.nbytes for parameter in network.backbone.parameters())
        file = (folder / "adapter.safetensors").stat().st_size
        assert file < stored + sum(parameter.nbytes for parameter in network.head.parameters()) + 50_000
    with torch.no_grad():
        torch.testing.assert_close(again(image), after, atol=1e-5, rtol=1e-5)


def _open_layer_scales(network: DenseNetwork) -> None:
    """With the initial factors, 1e-5, no error of what a method adds would be seen."""
    for module in network.modules():
        if isinstance(module, LayerScale):
            module.gamma.data.fill_(1.0)


def _train(network: DenseNetwork, image: torch.Tensor) -> torch.Tensor:
    """The scores of ``image`` after three steps towards a segmentation, in which all that trains must move."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(network(image), (image[:, 0] > 0.3).long()).backward()
        optimiser.step()
    moved = [name for name, parameter in trained.items() if not torch.equal(parameter, start[name])]
    assert len(moved) > 0.7 * len(trained)
    with torch.no_grad():
        return network.eval()(image)


@pytest.mark.parametrize(("method", "backbone"), sorted(REFUSED))
def test_a_backbone_that_has_not_what_a_method_needs_is_refused_with_a_remedy(method: str, backbone: str) -> None:
    with pytest.raises(SettingsError, match=rf"method '{method}'.*(has|have) not.*Choose method"):
        check_method(method).apply(_network(backbone, check_method(method).linear_head))


@pytest.mark.parametrize(("method", "kernel_voxels"), [("black_box_adapter", 1), ("spatial_adapter", 27)])
def test_a_feature_adapter_has_the_published_size_and_leaves_the_closed_form_possible(
    method: str, kernel_voxels: int
) -> None:
    network = _network("swin_unetr_base", linear=True)
    check_method(method).apply(network)
    assert isinstance(network.head, AdaptedHead) and can_be_solved(network)
    # FSEFT's 4,657 and 124,465 with one class on one map, less its head of 49
    assert sum(parameter.numel() for parameter in network.head.adapter.parameters()) == 2 * 48 * 48 * kernel_voxels


def test_a_feature_adapter_learns_from_features_computed_once(
    synthetic_cases: list[LabeledCase], task: SegmentationTask
) -> None:
    stages: list[str] = []
    settings = FinetuneSettings(method="spatial_adapter", steps=3, device="cpu")
    adapter = finetune(synthetic_cases[:1], task, settings, progress=lambda event: stages.append(event.stage))
    assert {"computing features", "solving the head", "training"} <= set(stages)
    assert all(name.startswith("head.") for name in adapter.tensors)
    assert adapter.tensors["head.adapter.second.weight"].abs().max() > 0


def test_a_feature_adapter_refuses_a_head_that_runs_the_backbone() -> None:
    backbone = create_backbone(BackboneSpec("vit_light_8"))
    head = SegmentationTask(("a",)).build_head(create_backbone(BackboneSpec("vit_tiny")), "vit_adapter")
    with pytest.raises(SettingsError, match=r"spatial_adapter.*Choose method lora, or head linear"):
        check_method("spatial_adapter").apply(DenseNetwork(backbone, head))


@pytest.mark.parametrize(
    ("backbone", "first", "parts"),
    [("vit_light_8", "blocks.3", 6), ("swin_unetr_tiny", "network.swinViT.layers3", 4), ("residual_unet_small", "", 6)],
)
def test_late_lora_leaves_the_earlier_half_alone(backbone: str, first: str, parts: int) -> None:
    network = _network(backbone)
    check_method("lora_late").apply(network)
    adapted = [name for name in _trained(network) if ".lora_A." in name]
    assert len(adapted) == parts and min(adapted).startswith(f"backbone.{first}")
    if backbone == "residual_unet_small":
        assert {name.split(".")[1] for name in adapted} == {"encoder", "decoder"}
        assert all(name.startswith(("backbone.encoder.2", "backbone.decoder")) for name in adapted)


def test_arena_takes_ranks_that_do_not_help_to_zero_and_merges_exactly() -> None:
    network = _network("vit_light_8")
    arena = ARENA(penalty=0.5)
    arena.apply(network)
    scales = rank_scales(network)
    with torch.no_grad():
        for scale in scales:
            scale.copy_(torch.tensor([3e-3, -3e-3, 4e-4, -4e-4, 0, 0, 0, 1]))
    arena.after_step(network, 1e-3)
    for scale in scales:
        torch.testing.assert_close(scale.detach(), torch.tensor([2.5e-3, -2.5e-3, 0, 0, 0, 0, 0, 0.9995]))
    layer = network.backbone.blocks[0].attn.qkv
    tokens = torch.randn(5, 192)
    with torch.no_grad():
        apart = layer(tokens)
        assert not torch.allclose(apart, layer.base_layer(tokens), atol=1e-3)
        layer.merge()
        torch.testing.assert_close(layer(tokens), apart, atol=1e-4, rtol=1e-4)


def test_the_trainer_lets_arena_prune_after_each_step(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a penalty above what a step of AdamW can win: everything must stay at zero, without it nothing does
    adapters = {}
    for penalty in (0.0, 5.0):
        monkeypatch.setitem(METHODS, "arena", ARENA(penalty=penalty))
        adapters[penalty] = finetune(synthetic_cases[:1], task, FinetuneSettings(method="arena", steps=2, device="cpu"))
    scales = {
        penalty: torch.cat([tensor for name, tensor in adapter.tensors.items() if name.endswith(".scale")])
        for penalty, adapter in adapters.items()
    }
    assert scales[0.0].abs().max() > 0 and scales[5.0].abs().max() == 0


def test_a_kronecker_layer_is_the_sum_of_kronecker_products() -> None:
    torch.manual_seed(0)
    layer = KroneckerLinear(torch.nn.Parameter(torch.randn(4, 4, 4)), 12, 8)
    weight = sum(torch.kron(a, s @ t) for a, s, t in zip(layer.shared, layer.left, layer.right, strict=True))
    tokens = torch.randn(3, 12)
    torch.testing.assert_close(layer(tokens), tokens @ weight + layer.bias)


@pytest.mark.parametrize("method", ["adaptformer", "vera", "arena", "compacter"])
def test_what_a_method_adds_survives_inference_in_half_precision(method: str) -> None:
    torch.manual_seed(0)
    network = _network("vit_light_8")
    check_method(method).apply(network)
    image = torch.rand(1, 1, 32, 16, 16) * 2 - 1
    expected = _train(network, image)
    half = for_inference(network, network.backbone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = half(image)
    torch.testing.assert_close(found.float(), expected, atol=0.1 * float(expected.abs().max()), rtol=0)
