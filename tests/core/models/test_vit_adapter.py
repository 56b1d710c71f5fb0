"""The 3D ViT-Adapter equals the reference in both axis orders, and takes other ViTs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fm3d_core.models.backbone import Backbone
from fm3d_core.models.vit import VisionTransformer3D, flat_block_name
from fm3d_core.models.vit_adapter import ViTAdapter


def chunked(name: str) -> str:
    """The reference's name: one block per chunk in these fixtures."""
    return re.sub(r"vit_model\.blocks\.(\d+)\.", r"vit_model.blocks.\1.\1.", name)


def adapter(order: str, image_size: int = 48, prior_width: int = 8) -> ViTAdapter:
    vit = VisionTransformer3D(image_size=image_size, width=64, depth=4, heads=4)
    axis_order: Any = "3dino" if order == "reference" else "corrected"
    return ViTAdapter(vit, input_channels=2, prior_width=prior_width, axis_order=axis_order).eval()


def test_its_parameters_have_the_reference_names_and_shapes(fixture_file: Callable[[str], Any]) -> None:
    expected = {flat_block_name(name): tuple(shape) for name, shape in fixture_file("vit_adapter.pt")["keys"].items()}
    assert {name: tuple(tensor.shape) for name, tensor in adapter("corrected").state_dict().items()} == expected


@pytest.mark.parametrize("order", ["reference", "corrected"])
@pytest.mark.parametrize("case", ["cube48", "aniso"])
def test_its_maps_equal_the_reference(
    case: str, order: str, fixture_file: Callable[[str], Any], fill: Callable[..., None], parity: Any
) -> None:
    expected = fixture_file("vit_adapter.pt")["cases"][f"{case}_{order}"]
    model = adapter(order)
    fill(model, "ad.", chunked)
    image = parity.inp(f"adapter/{case}", expected["shape"])
    with torch.no_grad():
        half, quarter, eighth, sixteenth = model.features(image)
        _, prior = model.spm(image)
    torch.testing.assert_close(half[..., :4, :4, :4], expected["f1_corner"], atol=1e-5, rtol=1e-4)
    stats = torch.stack([half.mean(), half.std(), half.abs().sum()])
    torch.testing.assert_close(stats, torch.tensor(expected["f1_stats"]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(quarter, expected["f2"].float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(eighth, expected["f3"].float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(sixteenth, expected["f4"], atol=1e-5, rtol=1e-4)
    if "spm_c4" in expected:
        torch.testing.assert_close(prior[-1].flatten(2).transpose(1, 2), expected["spm_c4"], atol=1e-5, rtol=1e-4)
    with torch.enable_grad():  # the way of training, which overwrites nothing
        slow = model.features(image)
    for mine, other in zip((half, quarter, eighth, sixteenth), slow, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("vit", "channels", "size"),
    [
        ({"patch_size": 8, "depth": 6}, 1, (32, 16, 48)),  # depth not a multiple of four
        ({"patch_size": (16, 16, 8), "depth": 4, "input_channels": 3}, 3, (32, 32, 16)),
        ({"patch_size": 12, "depth": 5, "register_tokens": 2}, 2, (48, 48, 48)),
    ],
)
def test_it_takes_any_patch_depth_channels_and_size_and_trains(
    vit: dict[str, Any], channels: int, size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    model = ViTAdapter(VisionTransformer3D(image_size=32, width=64, heads=4, **vit), channels, prior_width=4).train()
    assert isinstance(model, Backbone)
    model.activation_checkpointing = model.vit_model.activation_checkpointing = True
    image = torch.randn(1, channels, *size)
    maps = model.features(image)
    assert [tuple(features.shape) for features in maps] == [
        (1, 64, *(edge // stride for edge in size)) for stride in (2, 4, 8, 16)
    ]
    sum(features.square().mean() for features in maps).backward()  # type: ignore[union-attr]
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert set(without) <= {"vit_model.mask_token", "vit_model.norm.weight", "vit_model.norm.bias"}
    assert [len(stage) for stage in model.stages] == [
        len(model.vit_model.blocks) * (i + 1) // 4 - len(model.vit_model.blocks) * i // 4 for i in range(4)
    ]


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_of_the_finest_map_needs_not_make_it(kernel: int, fill: Callable[..., None]) -> None:
    model = adapter("corrected")
    fill(model, "ad.", chunked)
    torch.manual_seed(0)
    weight = torch.randn(5, 64, kernel, kernel, kernel) / 8
    with torch.no_grad():
        half, *_ = model.levels(torch.randn(2, 2, 32, 16, 48))
        expected = F.conv3d(half.materialise(), weight, padding=kernel // 2)
        torch.testing.assert_close(half.convolve(weight), expected, atol=2e-5, rtol=1e-4)
        model.train()
        in_training = F.conv3d(half.materialise(), weight, padding=kernel // 2)
        torch.testing.assert_close(half.convolve(weight), in_training, atol=2e-5, rtol=1e-4)


def test_too_few_blocks_and_foreign_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 blocks"):
        ViTAdapter(VisionTransformer3D(width=48, depth=2, heads=3))
    with pytest.raises(ValueError, match="takes 3 channels, the image has 2"):
        ViTAdapter(VisionTransformer3D(width=48, depth=4, heads=3, input_channels=3), input_channels=2)
