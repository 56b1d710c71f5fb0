"""The 3D ViT equals the reference implementation, tensor by tensor (../shared/parity)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fm3d_core.models.vit import VisionTransformer3D

PARITY = Path(__file__).resolve().parents[4] / "shared" / "parity"


@pytest.fixture(scope="module")
def parity() -> Any:
    if not PARITY.is_dir():
        pytest.skip(f"parity fixtures not found at {PARITY}")
    sys.path.insert(0, str(PARITY))
    import parity_rules

    return parity_rules


@pytest.fixture(scope="module")
def reference(parity: Any) -> dict[str, Any]:
    return torch.load(PARITY / "backbone.pt", weights_only=True)


@pytest.fixture(scope="module")
def model(reference: dict[str, Any]) -> VisionTransformer3D:
    model = VisionTransformer3D(image_size=48, width=48, depth=4, heads=3).eval()
    model.load_state_dict({_flat(name): tensor for name, tensor in reference["state_dict"].items()})
    return model


def _flat(name: str) -> str:
    """Our name of a reference parameter: block chunks are a matter of its sharding, not of the model."""
    return re.sub(r"blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


def _close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs.float(), atol=1e-5, rtol=1e-4)


CASES = ["native48", "small32", "aniso_64x48x32", "big96", "same_count_aniso_48x144x16"]


@pytest.mark.parametrize("name", CASES)
def test_features_of_every_size_equal_the_reference(
    name: str, model: VisionTransformer3D, reference: dict[str, Any], parity: Any
) -> None:
    case = reference["cases"][name]
    image = parity.inp(case["input_name"], case["shape"])
    with torch.no_grad():
        found = model.forward_features(image)
    _close(found.cls_token, case["cls"])
    _close(found.patch_tokens, case["patch"])
    _close(found.before_norm[:, 0], case["prenorm_cls"])
    _close(model.position_embedding(model.grid_of(image)), case["pos_embed_used"])


def test_masked_patches_equal_the_reference(model: VisionTransformer3D, reference: dict[str, Any], parity: Any) -> None:
    with torch.no_grad():
        found = model.forward_features(
            parity.inp("backbone/native48", (2, 1, 48, 48, 48)), reference["masked"]["mask"].bool()
        )
    _close(found.cls_token, reference["masked"]["cls"])
    _close(found.patch_tokens, reference["masked"]["patch"])


def test_intermediate_layers_equal_the_reference(
    model: VisionTransformer3D, reference: dict[str, Any], parity: Any
) -> None:
    image = parity.inp("backbone/native48", (2, 1, 48, 48, 48))
    with torch.no_grad():
        maps, layers = model.features(image), model.intermediate_layers(image, 4)
        unnormalised = model.intermediate_layers(image, [0, 2], norm=False)
    for mine, (cls, _), theirs in zip(maps, layers, reference["intermediate_n4"], strict=True):
        _close(mine, theirs["patch"])
        _close(cls, theirs["cls"])
    for (_, patches), theirs in zip(unnormalised, reference["intermediate_0_2_nonorm"], strict=True):
        _close(patches, theirs)


def test_gradients_equal_the_reference(model: VisionTransformer3D, reference: dict[str, Any], parity: Any) -> None:
    model.zero_grad()
    model(parity.inp("backbone/native48", (2, 1, 48, 48, 48))).pow(2).mean().backward()
    mine = dict(model.named_parameters())
    for name, theirs in reference["grad_of_mean_sq_cls"].items():
        _close(mine[_flat(name)].grad, theirs)


def test_the_attention_is_that_of_the_true_last_block(reference: dict[str, Any], parity: Any) -> None:
    """The reference's own function returns block 3 of 8; its fixture holds the true last one, in half precision."""
    deep = VisionTransformer3D(image_size=48, width=48, depth=8, heads=3).eval()
    with torch.no_grad():
        for name, parameter in deep.named_parameters():
            theirs = re.sub(r"blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) // 2}.{match[1]}.", name)
            parameter.copy_(parity.value_for(theirs, parameter.shape, "d8."))
        found = deep.last_attention(parity.inp("backbone/native48", (2, 1, 48, 48, 48)))
    expected = reference["self_attention_depth8"]["last_block_attn_true"].float()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_the_plain_interpolation_differs_from_the_published_one() -> None:
    published = VisionTransformer3D(image_size=48, width=48, depth=1, heads=3)
    plain = VisionTransformer3D(image_size=48, width=48, depth=1, heads=3, position_interpolation="plain")
    plain.load_state_dict(published.state_dict())
    assert published.position_embedding((4, 2, 3)).shape == plain.position_embedding((4, 2, 3)).shape == (1, 25, 48)
    assert not torch.allclose(published.position_embedding((4, 2, 3)), plain.position_embedding((4, 2, 3)))


def test_stochastic_depth_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = VisionTransformer3D(image_size=32, width=48, depth=2, heads=3, drop_path=0.9, layer_scale=1.0)
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(image), model(image))
        outputs = {float(model.train()(image).sum()) for _ in range(12)}
    assert len(outputs) > 1
