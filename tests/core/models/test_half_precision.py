"""A network whose weights were rounded once answers as autocast does, and the original stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.models.half_precision import for_inference
from fm3d_core.models.layers import mix_values
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.vit import PatchEmbedding, VisionTransformer3D
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask


def _vit(**options: object) -> VisionTransformer3D:
    torch.manual_seed(0)
    return VisionTransformer3D(image_size=32, width=96, depth=6, heads=3, layer_scale=1.0, **options).eval()  # type: ignore[arg-type]


def _patches(vit: VisionTransformer3D, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return vit.forward_features(image).patch_tokens.float()


def test_the_numbers_are_autocasts_own_and_close_to_the_exact_ones() -> None:
    vit, image = _vit(), torch.rand(1, 1, 32, 48, 16) * 2 - 1
    quick = for_inference(vit, vit)
    assert torch.equal(_patches(quick, image), _patches(vit, image))
    with torch.no_grad():
        exact = vit.forward_features(image).patch_tokens
    assert torch.cosine_similarity(_patches(quick, image).flatten(), exact.flatten(), dim=0) > 0.999


def test_linear_layers_alone_are_converted_and_the_original_is_not() -> None:
    vit = _vit(feed_forward="swiglu")
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    quick = for_inference(vit, vit)
    types = {name: parameter.dtype for name, parameter in quick.named_parameters()}
    halved = {name for name, kind in types.items() if kind == torch.bfloat16}
    assert halved == {name for name in types if any(key in name for key in ("qkv", "proj", "w12", "w3"))}
    assert quick.blocks[0].norm1.weight is vit.blocks[0].norm1.weight  # shared: no second copy of what stays
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in vit.parameters())


@pytest.mark.parametrize("head", ["light", "unetr", "vit_adapter"])
def test_a_whole_network_is_converted_also_where_the_head_runs_the_backbone(head: str) -> None:
    backbone = create_backbone(BackboneSpec("vit_tiny"))
    torch.manual_seed(0)
    network = DenseNetwork(backbone, SegmentationTask(("a",)).build_head(backbone, head)).eval()
    quick = for_inference(network, network.backbone)
    assert quick.backbone.blocks[3].attn.qkv.weight.dtype == torch.bfloat16
    assert quick.head is not network.head
    image = torch.rand(1, 1, 32, 32, 16) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mine, theirs = quick(image), network(image)
    torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_patch_embedding_is_the_strided_convolution_in_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = PatchEmbedding((4, 2, 8), 3, 20).double()
    image = torch.randn(2, 3, 12, 6, 16, dtype=torch.float64)
    expected = layer.proj(image).flatten(2).transpose(1, 2)
    found = layer.to(dtype)(image.to(dtype).transpose(2, 3).contiguous().transpose(2, 3))
    close = 3e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, atol=close, rtol=close)


def test_attention_trains_in_bfloat16_as_exactly_as_pytorchs_own() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(1, 2, 30, 16).requires_grad_() for _ in range(3)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    fused = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    for tensors, attend in ((exact, mix_values), (half, mix_values), (fused, F.scaled_dot_product_attention)):
        attend(*tensors).float().square().sum().backward()
    for truth, mine, theirs in zip(exact, half, fused, strict=True):
        error, usual = ((found.grad.float() - truth.grad).norm() for found in (mine, theirs))
        assert error < 1.5 * usual and usual < 0.02 * truth.grad.norm()
