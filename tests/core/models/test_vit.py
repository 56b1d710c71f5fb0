"""The 3D ViT equals the reference implementation, tensor by tensor (../shared/parity)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fm3d_core.models.vit import VisionTransformer3D, ViTFeatures, flat_block_name


@pytest.fixture(scope="module")
def reference(fixture_file: Callable[[str], Any]) -> dict[str, Any]:
    return fixture_file("backbone.pt")


@pytest.fixture(scope="module")
def model(reference: dict[str, Any]) -> VisionTransformer3D:
    model = VisionTransformer3D(image_size=48, width=48, depth=4, heads=3).eval()
    model.load_state_dict({flat_block_name(name): tensor for name, tensor in reference["state_dict"].items()})
    return model


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
        _close(mine[flat_block_name(name)].grad, theirs)


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
    image = torch.randn(4, 1, 32, 32, 32)  # a single image would always be kept
    with torch.no_grad():
        assert torch.equal(model.eval()(image), model(image))
        outputs = {float(model.train()(image).abs().sum()) for _ in range(12)}
    assert len(outputs) > 1


def _lively(**options: Any) -> VisionTransformer3D:
    """A small ViT whose attention is far from uniform."""
    torch.manual_seed(0)
    model = VisionTransformer3D(image_size=32, width=48, depth=3, heads=3, layer_scale=1.0, **options).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.3)  # type: ignore[union-attr,arg-type]
    return model


CROPS = [(2, 1, 32, 32, 32), (3, 1, 16, 32, 16), (1, 1, 48, 16, 16)]


@pytest.mark.parametrize(
    "options", [{}, {"register_tokens": 2, "feed_forward": "swiglu"}, {"rotary_wavelengths": (20.0, 500.0)}]
)
def test_crops_of_several_sizes_in_one_pass_equal_a_pass_per_crop(options: dict[str, Any]) -> None:
    model = _lively(**options)
    crops = [torch.randn(shape) for shape in CROPS]
    masks = [torch.rand(2, 8) < 0.5, None, None]
    spacings = [(1.0, 1.0, 2.0)] * 3 if options.get("rotary_wavelengths") else [None] * 3
    with torch.no_grad():
        together = model.forward_many(crops, masks, spacings=spacings)
        for found, crop, mask, spacing in zip(together, crops, masks, spacings, strict=True):
            alone = model.forward_features(crop, mask, spacing=spacing)
            for part in ("cls_token", "patch_tokens", "before_norm", "register_tokens"):
                torch.testing.assert_close(getattr(found, part), getattr(alone, part), atol=1e-6, rtol=1e-5)


def test_stochastic_depth_of_one_pass_leaves_out_whole_images_but_never_all_of_a_batch() -> None:
    torch.manual_seed(0)
    model = VisionTransformer3D(image_size=32, width=48, depth=1, heads=3, layer_scale=1.0, drop_path=0.5).train()
    crops = [torch.randn(shape) for shape in CROPS]
    with torch.no_grad():
        embedded = [model.embed(crop) for crop in crops]
        unchanged = torch.zeros(6)
        for _ in range(40):
            for features, tokens, start in zip(model.forward_many(crops), embedded, (0, 2, 5), strict=True):
                same = (features.before_norm == tokens).all(dim=-1)  # (B, N): both branches dropped
                assert torch.equal(same.any(dim=1), same.all(dim=1)), "a part of an image was dropped"
                assert not same.all()
                unchanged[start : start + len(tokens)] += same.all(dim=1)
    assert ((unchanged[:5] > 0) & (unchanged[:5] < 40)).all()  # each image of a batch by itself


@pytest.mark.parametrize("options", [{}, {"rotary_wavelengths": (20.0, 500.0)}])
def test_the_images_that_stochastic_depth_keeps_are_scaled_and_get_a_gradient(options: dict[str, Any]) -> None:
    """Each kept branch counts batch over kept times; the expectation is the pass without stochastic depth."""
    torch.manual_seed(0)
    model = VisionTransformer3D(
        image_size=32, width=48, depth=1, heads=3, layer_scale=1.0, drop_path=0.5, **options
    ).train()
    block, image = model.blocks[0], torch.randn(4, 1, 32, 32, 32)
    spacing = torch.rand(4, 3) + 0.5 if options else None
    tokens, turn = model.embed(image), model.rotation(image, spacing)
    branch = block.ls1(block.attn(block.norm1(tokens), turn)).detach()  # type: ignore[union-attr,operator]
    block.mlp = torch.nn.Identity()  # type: ignore[union-attr]
    block.norm2 = torch.nn.Identity()  # type: ignore[union-attr]
    torch.nn.init.zeros_(block.ls2.gamma)  # type: ignore[union-attr,arg-type]
    packed = block.forward_packed(tokens.flatten(0, 1), [(4, 9)], [turn])  # type: ignore[union-attr,operator]
    change = packed.unflatten(0, (4, 9)) - tokens
    kept = change.detach().flatten(1).abs().sum(dim=1) > 0
    assert kept.sum() == 2
    torch.testing.assert_close(change[kept].detach(), 2 * branch[kept], atol=1e-5, rtol=1e-4)
    packed.square().sum().backward()
    assert model.patch_embed.proj.weight.grad is not None
    assert model.patch_embed.proj.weight.grad.isfinite().all()


def test_register_tokens_take_part_and_are_no_patches() -> None:
    model = _lively(register_tokens=3)
    image = torch.randn(2, 1, 32, 16, 32)
    with torch.no_grad():
        found = model.forward_features(image)
        model.register_tokens.add_(1)
        assert (model(image) - found.cls_token).abs().max() > 1e-4
    assert found.patch_tokens.shape == (2, 4, 48) and found.register_tokens.shape == (2, 3, 48)
    assert found.before_norm.shape == (2, 8, 48)
    assert [maps.shape for maps in model.features(image)] == [(2, 48, 2, 1, 2)] * 4
    assert model.last_attention(image).shape == (2, 3, 8, 8)


def test_new_options_leave_the_identity_of_models_without_them() -> None:
    assert not {"register_tokens", "rotary_wavelengths"} & set(_lively().config)
    assert _lively(register_tokens=3).config["register_tokens"] == 3


def _bytes_left(prof: torch.profiler.profile) -> int:
    """Of what was allocated and freed while it looked."""
    events = prof.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.parametrize(("option", "share"), [("activation_checkpointing", 0.33), ("recompute_elementwise", 0.67)])
def test_recomputation_changes_nothing_but_what_is_kept(option: str, share: float) -> None:
    image, kept, results = torch.randn(2, 1, 64, 64, 64), [], []
    for enabled in (False, True):
        model = _lively().train()
        setattr(model, option, enabled)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
            features = model.forward_features(image)
        kept.append(_bytes_left(prof))
        features.cls_token.square().sum().backward()
        results.append((features, [parameter.grad for parameter in model.parameters()]))
    patches = image.nbytes  # the image cut into patches is kept in either case
    assert kept[1] - patches < (kept[0] - patches) * share
    (plain, gradients), (recomputed, recomputed_gradients) = results
    assert torch.equal(plain.cls_token, recomputed.cls_token)
    for a, b in zip(gradients, recomputed_gradients, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"register_tokens": 2, "rotary_wavelengths": (20.0, 500.0)}])
def test_it_compiles_without_graph_breaks(options: dict[str, Any]) -> None:
    model = _lively(**options)
    spacing = (1.0, 1.0, 2.0) if options else None
    image = torch.randn(1, 1, 32, 16, 32)

    def call(image: torch.Tensor) -> ViTFeatures:
        return model.forward_features(image, spacing=spacing)

    compiled = torch.compile(call, fullgraph=True, backend="eager")
    many = torch.compile(
        lambda crops: model.forward_many(crops, spacings=[spacing] * 2), fullgraph=True, backend="eager"
    )
    with torch.no_grad():
        # compiled products are torch's own, the others may be oneDNN's: another order of additions
        torch.testing.assert_close(compiled(image).patch_tokens, call(image).patch_tokens, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(
            many([image, image[..., :16]])[0].cls_token, call(image).cls_token, atol=1e-5, rtol=1e-3
        )


def test_a_size_that_is_no_multiple_of_the_patch_names_the_nearest_that_are() -> None:
    model = _lively()
    with pytest.raises(ValueError, match=r"\(50, 48, 7\).*nearest legal sizes are \(48, 48, 16\) or \(64, 48, 16\)"):
        model(torch.randn(1, 1, 50, 48, 7))


def test_wrong_channels_or_axes_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(batch, 1, X, Y, Z\), not \(1, 3, 32, 32, 32\)"):
        _lively().features(torch.randn(1, 3, 32, 32, 32))
    with pytest.raises(ValueError, match=r"not \(1, 32, 32, 32\)"):
        _lively()(torch.randn(1, 32, 32, 32))
