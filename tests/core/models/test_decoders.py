"""The published decoders equal the reference, whatever shortcuts they take; the light one takes any patch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.channels import FoldedChannels
from fm3d_core.models.decoders import LinearDecoder, UNETRHead, ViTAdapterUNETR
from fm3d_core.models.light_decoder import LightDecoder
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.unet_blocks import ProjectionBlock, ResidualBlock, UpsamplingBlock, compose, instance_norm
from fm3d_core.models.vit import VisionTransformer3D, flat_block_name
from fm3d_core.models.vit_adapter import ViTAdapter
from fm3d_core.tasks import SegmentationTask


@pytest.fixture(scope="module")
def image(parity: Any) -> torch.Tensor:
    return parity.inp("seg/x", (1, 2, 32, 32, 32))


def token_backbone(prefix: str, fill: Callable[..., None]) -> FoldedChannels:
    """The fixtures' 24 blocks in four chunks."""
    vit = VisionTransformer3D(image_size=32, width=24, depth=24, heads=3).eval()
    fill(vit, f"{prefix}feature_model.", _in_four_chunks)
    return FoldedChannels(vit, 2)


def _in_four_chunks(name: str) -> str:
    return re.sub(r"blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) // 6}.{match[1]}.", name)


def _shapes(module: nn.Module, without: str = "nothing") -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if without not in name}


def _expected(keys: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {flat_block_name(name): tuple(shape) for name, shape in keys.items()}


@pytest.mark.parametrize("gradients", [False, True])
def test_unetr_equals_the_reference(
    gradients: bool, image: torch.Tensor, fixture_file: Callable[[str], Any], fill: Callable[..., None]
) -> None:
    expected = fixture_file("seg_heads.pt")["unetr"]
    head = UNETRHead(width=24, classes=3, input_channels=2, folded_channels=2).eval()
    assert _shapes(head) == _expected(expected["keys"])
    fill(head, "unetr.")
    with torch.set_grad_enabled(gradients):
        scores = head(token_backbone("unetr.", fill).features(image), image).detach()
    torch.testing.assert_close(scores, expected["y"].float(), atol=2e-3, rtol=0)
    assert float(scores.double().abs().sum()) == pytest.approx(expected["y_abs"], rel=1e-5)


def test_the_linear_decoder_equals_the_reference(
    image: torch.Tensor, fixture_file: Callable[[str], Any], fill: Callable[..., None]
) -> None:
    expected = fixture_file("seg_heads.pt")["linear"]
    decoder = LinearDecoder(width=24, classes=3, folded_channels=2).eval()
    assert _shapes(decoder) == _expected(expected["keys"])
    fill(decoder, "lin.")
    backbone = token_backbone("lin.", fill)
    backbone.backbone.feature_layers = (20, 21, 22, 23)
    with torch.no_grad():
        scores = decoder(backbone.features(image), image)
    torch.testing.assert_close(scores, expected["y"].float(), atol=2e-3, rtol=0)
    assert float(scores.double().sum()) == pytest.approx(expected["y_sum"], rel=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("order", ["reference", "corrected"])
def test_the_vit_adapter_unet_equals_the_reference(
    order: str, gradients: bool, image: torch.Tensor, fixture_file: Callable[[str], Any], fill: Callable[..., None]
) -> None:
    expected = fixture_file("seg_heads.pt")["vitadapter_unetr"]
    vit = VisionTransformer3D(image_size=112, width=64, depth=4, heads=4)
    axis_order: Any = "3dino" if order == "reference" else "corrected"
    model = ViTAdapterUNETR(ViTAdapter(vit, 2, axis_order=axis_order), classes=3).eval()
    assert _shapes(model, without="vit_model") == _expected(expected["keys"])
    fill(model, "vau.", lambda name: re.sub(r"\.blocks\.(\d+)\.", r".blocks.\1.\1.", name, count=1))
    with torch.set_grad_enabled(gradients):
        scores = model(image).detach()
    torch.testing.assert_close(scores, expected[f"y_{order}"].float(), atol=2e-3, rtol=0)
    checked = dict(zip(("reference", "corrected"), expected["sums"], strict=True))
    assert float(scores.double().sum()) == pytest.approx(checked[order], rel=1e-6)


def test_the_vit_adapter_unet_takes_any_size() -> None:
    vit = VisionTransformer3D(image_size=32, width=64, depth=4, heads=4, patch_size=8)
    model = ViTAdapterUNETR(ViTAdapter(vit), classes=2).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 19, 35, 16)).shape == (1, 2, 19, 35, 16)


def _monai(kind: str) -> tuple[nn.Module, nn.Module, list[torch.Tensor]]:
    from monai.networks import blocks

    common: dict[str, Any] = {"kernel_size": 3, "norm_name": "instance", "res_block": True}
    if kind == "residual":
        return (
            ResidualBlock(3, 6),
            blocks.UnetrBasicBlock(3, 3, 6, stride=1, **common).layer,
            [torch.randn(2, 3, 6, 4, 5)],
        )
    if kind == "upsampling":
        peer = blocks.UnetrUpBlock(3, 7, 6, upsample_kernel_size=2, **common)
        return UpsamplingBlock(7, 6), peer, [torch.randn(2, 7, 3, 4, 2), torch.randn(2, 6, 6, 8, 4)]
    common |= {"stride": 1, "upsample_kernel_size": 2, "conv_block": True}
    return (
        ProjectionBlock(5, 4, steps=2),
        blocks.UnetrPrUpBlock(3, 5, 4, num_layer=2, **common),
        [torch.randn(2, 5, 2, 1, 2)],
    )


@pytest.mark.parametrize("kind", ["residual", "upsampling", "projection"])
def test_a_block_gives_the_scores_and_gradients_of_monais(kind: str) -> None:
    torch.manual_seed(0)
    mine, peer, inputs = _monai(kind)
    mine.load_state_dict(peer.state_dict())
    kept = [tensor.clone() for tensor in inputs]
    expected = peer(*inputs)
    torch.testing.assert_close(mine(*inputs), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(mine(*inputs), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True)), "inputs were overwritten"
    direction = torch.randn_like(expected)
    mine(*inputs).backward(direction)
    expected.backward(direction)
    for (name, parameter), other in zip(mine.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_composed_kernel_is_the_convolution_of_the_upsampled_map(kernel: int) -> None:
    torch.manual_seed(0)
    coarse, up = torch.randn(1, 3, 2, 3, 4), torch.randn(3, 5, 2, 2, 2)
    weight = torch.randn(4, 5, kernel, kernel, kernel)
    expected = F.conv3d(F.conv_transpose3d(coarse, up, stride=2), weight, padding=kernel // 2)
    found = F.conv_transpose3d(coarse, compose(up, weight), stride=2, padding=kernel // 2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_instance_norm_is_exact_far_from_zero() -> None:
    maps = 1000 + torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    expected = F.instance_norm(maps)
    torch.testing.assert_close(instance_norm(maps.clone()), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("patch", [(16, 16, 16), (8, 8, 8), (16, 16, 4), (12, 12, 6)])
def test_the_light_decoder_takes_any_patch_and_trains(patch: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer3D(image_size=32, patch_size=patch, width=48, depth=4, heads=3, input_channels=2)
    network = DenseNetwork(backbone, LightDecoder(48, 3, patch, input_channels=2, channels=32))
    scores = network(torch.randn(1, 2, 25, 32, 24))
    assert scores.shape == (1, 3, 25, 32, 24)
    scores.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.head.parameters())


def test_a_task_builds_the_head_that_fits_the_backbone() -> None:
    task = SegmentationTask(("a",))
    for build, kind in (
        (lambda: VisionTransformer3D(width=48, depth=4, heads=3, input_channels=2), UNETRHead),
        (lambda: FoldedChannels(VisionTransformer3D(width=48, depth=4, heads=3), 2), UNETRHead),
        (lambda: VisionTransformer3D(width=48, depth=4, heads=3, input_channels=2, patch_size=8), LightDecoder),
        (lambda: FoldedChannels(VisionTransformer3D(width=48, depth=4, heads=3, patch_size=8), 2), LightDecoder),
    ):
        backbone = build()
        head = task.build_head(backbone)
        assert isinstance(head, kind)
        with torch.no_grad():
            assert DenseNetwork(backbone, head)(torch.randn(1, 2, 16, 16, 20)).shape == (1, 2, 16, 16, 20)


def test_folded_channels_are_the_features_of_each_channel_side_by_side() -> None:
    vit = VisionTransformer3D(image_size=32, width=48, depth=4, heads=3).eval()
    image = torch.randn(2, 3, 16, 32, 16)
    with torch.no_grad():
        maps = FoldedChannels(vit, 3).features(image)
        alone = vit.features(image[:, 1:2])
    torch.testing.assert_close(maps[2][:, 48:96], alone[2], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="only a one-channel backbone"):
        FoldedChannels(VisionTransformer3D(width=48, depth=4, heads=3, input_channels=2), 2)
