"""SuPreM's U-Net and SegResNet: names and parameter counts of the public files, features at every scale."""

from __future__ import annotations

import pytest
import torch
from layouts import public_content
from torch import nn
from torch.nn import functional as F

from fm3d_core.models.backbone import Backbone
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.segresnet import SegResNetBackbone
from fm3d_core.models.suprem_unet import BatchStatisticsNorm, SuPreMUNet
from fm3d_core.models.zoo import BackboneSpec, backbone_sha256, create_backbone
from fm3d_core.tasks import SegmentationTask


def _small() -> SuPreMUNet:
    torch.manual_seed(0)
    return SuPreMUNet(channels=(4, 8, 16, 32))


def test_the_unet_has_the_names_shapes_and_size_of_the_public_file() -> None:
    with torch.device("meta"):
        state = create_backbone(BackboneSpec("suprem_unet")).state_dict()  # type: ignore[attr-defined]
    public = public_content("suprem_unet.pth")["net"]
    named = {name.removeprefix("module.backbone."): tensor for name, tensor in public.items()}
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in named.items() if name in state
    }
    assert len(state) == 104 and set(named) - set(state) == {name for name in named if name.startswith("module.")}


def test_the_unet_keeps_the_protocol_with_features_at_every_scale() -> None:
    backbone = _small().eval()
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        maps = backbone.features(torch.randn(2, 1, 16, 24, 32))
    assert [tuple(features.shape) for features in maps] == [
        (2, 4, 16, 24, 32),
        (2, 8, 8, 12, 16),
        (2, 16, 4, 6, 8),
        (2, 32, 2, 3, 4),
    ]
    targets = [backbone.get_submodule(name) for name in backbone.lora_targets()]
    assert len(targets) == 14 and all(isinstance(module, nn.Conv3d) for module in targets)
    with pytest.raises(ValueError, match="not four even widths"):
        SuPreMUNet(channels=(3, 8, 16, 32))


def test_the_unet_is_its_definition_written_out() -> None:
    backbone = _small().eval()
    weights = backbone.state_dict()
    image = torch.randn(2, 1, 16, 16, 16)

    def unit(maps: torch.Tensor, name: str) -> torch.Tensor:
        maps = F.conv3d(maps, weights[f"{name}.conv1.weight"], weights[f"{name}.conv1.bias"], padding=1)
        mean = maps.mean(dim=(0, 2, 3, 4), keepdim=True)
        spread = (maps.var(dim=(0, 2, 3, 4), keepdim=True, unbiased=False) + 1e-5).sqrt()
        shape = (1, -1, 1, 1, 1)
        scale, shift = weights[f"{name}.bn1.weight"].view(shape), weights[f"{name}.bn1.bias"].view(shape)
        return ((maps - mean) / spread * scale + shift).clamp(min=0)

    def level(maps: torch.Tensor, name: str) -> torch.Tensor:
        return unit(unit(maps, f"{name}.ops.0"), f"{name}.ops.1")

    def up(maps: torch.Tensor, skip: torch.Tensor, name: str) -> torch.Tensor:
        maps = F.conv_transpose3d(maps, weights[f"{name}.up_conv.weight"], weights[f"{name}.up_conv.bias"], stride=2)
        return level(torch.cat([maps, skip], 1), name)

    skips = [level(image, "down_tr64")]
    for name in ("down_tr128", "down_tr256", "down_tr512"):
        skips.append(level(F.max_pool3d(skips[-1], 2), name))
    maps = [skips[3]]
    for name, skip in zip(("up_tr256", "up_tr128", "up_tr64"), reversed(skips[:3]), strict=True):
        maps.insert(0, up(maps[0], skip, name))
    with torch.no_grad():
        for ours, expected in zip(backbone.features(image), maps, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_its_batch_norm_uses_the_batch_also_in_evaluation_and_leaves_its_identity_alone() -> None:
    norm = BatchStatisticsNorm(3)
    norm.running_mean += 5  # type: ignore[operator]
    image = torch.randn(2, 3, 4, 4, 4) * 7 + 3
    expected = nn.BatchNorm3d(3).train()(image)
    torch.testing.assert_close(norm.train()(image), expected)
    torch.testing.assert_close(norm.eval()(image), expected)
    backbone = _small().eval()
    before = backbone_sha256(backbone)
    with torch.no_grad():
        backbone.features(image[:, :1].repeat(1, 1, 4, 4, 4))
    backbone.train().features(image[:, :1].repeat(1, 1, 4, 4, 4)).pop()
    assert backbone_sha256(backbone) == before


def test_the_unet_trains_on_any_size_also_below_its_coarsest_step() -> None:
    for size in ((19, 8, 33), (8, 8, 8), (3, 1, 5)):
        backbone = _small()
        network = DenseNetwork(backbone, SegmentationTask(("a", "b")).build_head(backbone)).train()
        scores = network(torch.randn(1, 1, *size))
        assert scores.shape == (1, 3, *size)
        scores.square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_segresnets_finest_map_gives_monais_answer_through_the_last_convolution() -> None:
    from monai.networks.nets import SegResNet

    backbone = SegResNetBackbone(init_filters=8, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)).eval()
    network = SegResNet(init_filters=8, in_channels=1, out_channels=5).eval()
    missing = network.load_state_dict(backbone.network.state_dict(), strict=False)
    assert set(missing.missing_keys) == {"conv_final.2.conv.weight", "conv_final.2.conv.bias"}
    image = torch.randn(1, 1, 16, 24, 16)
    with torch.no_grad():
        maps = backbone.features(image)
        assert (network.conv_final[2](maps[0]) - network(image)).abs().max() == 0.0
    assert [features.shape[1] for features in maps] == [8, 16, 32, 64] == list(backbone.feature_channels)


def test_segresnet_has_the_size_of_the_public_file_and_adapts_only_what_merges() -> None:
    with torch.device("meta"):
        backbone = create_backbone(BackboneSpec("suprem_segresnet"))
    count = sum(parameter.numel() for parameter in backbone.parameters())  # type: ignore[attr-defined]
    assert count == pytest.approx(4.70e6, rel=1e-3)
    kernels = {backbone.get_submodule(name).kernel_size for name in backbone.lora_targets()}  # type: ignore[attr-defined]
    assert kernels == {(3, 3, 3)} and len(backbone.lora_targets()) == 1 + 3 + 2 * 12
