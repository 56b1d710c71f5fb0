"""Rotary positions depend on millimetres and on nothing else."""

from __future__ import annotations

import pytest
import torch

from fm3d_core.models.rotary import patch_centres, rotate, rotation_of
from fm3d_core.models.vit import VisionTransformer3D

WAVELENGTHS = (20.0, 2000.0)


def _logits(query: torch.Tensor, key: torch.Tensor, query_mm: torch.Tensor, key_mm: torch.Tensor) -> torch.Tensor:
    turned = [
        rotate(heads, rotation_of(places[None], query.shape[-1], WAVELENGTHS, leading_tokens=0))
        for heads, places in ((query, query_mm), (key, key_mm))
    ]
    return turned[0] @ turned[1].transpose(-2, -1)


def test_attention_logits_depend_only_on_relative_offsets_in_millimetres() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 3, 6, 20, dtype=torch.float64)
    places = 100 * torch.rand(6, 3, dtype=torch.float64)
    shift = torch.tensor([37.0, -12.5, 4.0], dtype=torch.float64)
    expected = _logits(query, key, places, places)
    torch.testing.assert_close(_logits(query, key, places + shift, places + shift), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(_logits(query, key, places + shift, places), expected, atol=1e-2)


def test_twice_the_spacing_is_twice_the_distance() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, 12, 24)
    wide = patch_centres((3, 2, 2), (8, 8, 4), (2.0, 2.0, 6.0))[0]
    narrow = patch_centres((3, 2, 2), (16, 16, 12), (1.0, 1.0, 2.0))[0]
    assert torch.equal(wide, narrow)
    dense = patch_centres((6, 4, 4), (8, 8, 4), (1.0, 1.0, 3.0))[0].reshape(6, 4, 4, 3)
    every_second = dense[::2, ::2, ::2].flatten(0, 2)
    torch.testing.assert_close(
        _logits(query, key, wide, wide), _logits(query, key, every_second, every_second), atol=1e-4, rtol=1e-4
    )


def test_a_rotary_vit_sees_the_spacing_of_each_image_and_insists_on_it() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer3D(width=48, depth=2, heads=2, rotary_wavelengths=WAVELENGTHS, layer_scale=1.0).eval()
    for block in vit.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.3)  # type: ignore[union-attr,arg-type]
    assert "pos_embed" not in vit.state_dict() and vit.config["rotary_wavelengths"] == WAVELENGTHS
    image = torch.randn(1, 1, 32, 48, 32).expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        both = vit(image, spacing=torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 5.0]]))
        thick = vit(image[:1], spacing=(1.0, 1.0, 5.0))
    torch.testing.assert_close(both[1:], thick, atol=1e-5, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="needs the image's spacing"):
        vit(image)


def test_tokens_without_a_place_and_left_over_channels_do_not_turn() -> None:
    heads = torch.randn(1, 2, 5, 20)  # 3 pairs for each axis, 2 channels left over
    turned = rotate(heads, rotation_of(100 * torch.rand(1, 4, 3), 20, WAVELENGTHS, leading_tokens=1))
    assert torch.equal(turned[:, :, 0], heads[:, :, 0]) and torch.equal(turned[..., 18:], heads[..., 18:])
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert not torch.allclose(turned[:, :, 1:, :18], heads[:, :, 1:, :18])
