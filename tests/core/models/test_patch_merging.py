"""Swin UNETR with the legacy order computes exactly what MONAI before 1.5 computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fm3d_core.models.patch_merging import LegacyPatchMerging
from fm3d_core.models.swin_unetr import SwinUNETRBackbone
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone, presets


def _old_formula(tokens: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """The eight slices of MONAI 0.8 to 1.4, written out, voxel by voxel of the output."""
    batch, x, y, z, channels = tokens.shape
    padded = torch.zeros(batch, x + x % 2, y + y % 2, z + z % 2, channels)
    padded[:, :x, :y, :z] = tokens
    order = ["000", "100", "010", "001", "101", "010", "001", "111"]
    joined = torch.empty(batch, padded.shape[1] // 2, padded.shape[2] // 2, padded.shape[3] // 2, 8 * channels)
    for i in range(joined.shape[1]):
        for j in range(joined.shape[2]):
            for k in range(joined.shape[3]):
                parts = [padded[:, 2 * i + int(a), 2 * j + int(b), 2 * k + int(c)] for a, b, c in order]
                joined[:, i, j, k] = torch.cat(parts, dim=-1)
    return layer.reduction(layer.norm(joined))  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("size", [(4, 6, 2), (5, 6, 7), (3, 3, 3), (1, 2, 1)])
def test_the_legacy_order_is_the_old_formula_exactly(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = LegacyPatchMerging(dim=6)
    nn.init.normal_(layer.norm.weight)
    tokens = torch.randn(2, *size, 6)
    merged = layer(tokens)
    assert merged.shape == (2, *((edge + 1) // 2 for edge in size), 12)
    assert (merged - _old_formula(tokens, layer)).abs().max() == 0.0


def test_it_has_the_names_and_shapes_of_the_present_layer_but_another_answer() -> None:
    from monai.networks.nets.swin_unetr import PatchMerging

    torch.manual_seed(0)
    legacy, present = LegacyPatchMerging(6), PatchMerging(6)
    legacy.load_state_dict(present.state_dict(), strict=True)
    for size in ((4, 4, 4), (5, 3, 7)):  # odd sizes are padded alike
        tokens = torch.randn(1, *size, 6)
        assert legacy(tokens).shape == present(tokens).shape
        assert (legacy(tokens) - present(tokens)).abs().max() > 0.1
    # where neighbours are equal the order cannot matter
    equal = torch.randn(1, 2, 2, 2, 6).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(legacy(equal), present(equal), atol=0, rtol=0)


def test_the_whole_backbone_computes_the_old_network_and_not_the_present_one() -> None:
    from monai.networks.nets import SwinUNETR

    class OldMerging(nn.Module):
        def __init__(self, dim: int, norm_layer: type[nn.LayerNorm], spatial_dims: int) -> None:
            super().__init__()
            self.reduction, self.norm = nn.Linear(8 * dim, 2 * dim, bias=False), norm_layer(8 * dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _old_formula(x, self)

    legacy = SwinUNETRBackbone(feature_size=12, patch_merging="legacy").eval()
    state = legacy.network.state_dict()
    image = torch.randn(1, 1, 64, 32, 32)
    answers = {}
    for name, downsample in {"old": OldMerging, "present": "merging"}.items():
        network = SwinUNETR(1, 1, feature_size=12, downsample=downsample)  # type: ignore[arg-type]
        network.out = nn.Identity()
        network.load_state_dict(state, strict=True)
        with torch.no_grad():
            answers[name] = network.eval()(image)
    with torch.no_grad():
        finest = legacy.features(image)[0]
    assert (finest - answers["old"]).abs().max() == 0.0
    assert (finest - answers["present"]).abs().max() > 0.1


def test_the_order_is_part_of_the_identity_and_never_guessed() -> None:
    legacy, present = (create_backbone(BackboneSpec(name)) for name in ("swin_unetr_tiny_legacy", "swin_unetr_tiny"))
    states = [backbone.state_dict() for backbone in (legacy, present)]  # type: ignore[attr-defined]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert backbone_sha256(legacy) != backbone_sha256(present)
    swin = {name: preset for name, preset in presets().items() if preset["class"] == "SwinUNETRBackbone"}
    assert len(swin) == 6
    assert all(("legacy" in name) == (preset["config"]["patch_merging"] == "legacy") for name, preset in swin.items())
    with pytest.raises(ValueError, match="patch_merging is 'newest'"):
        SwinUNETRBackbone(patch_merging="newest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3D only"):
        LegacyPatchMerging(4, spatial_dims=2)
