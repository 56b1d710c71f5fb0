"""Image-level heads on both kinds of backbone, and voxels and image together."""

from __future__ import annotations

import pytest
import torch

from fm3d_core.models.channels import FoldedChannels
from fm3d_core.models.heads import LinearHead
from fm3d_core.models.image_heads import (
    ImageHead,
    ImageNetwork,
    JointHead,
    JointNetwork,
    pooled_features,
    pooled_width,
)
from fm3d_core.models.residual_unet import ResidualUNet
from fm3d_core.models.vit import VisionTransformer3D


def _vit() -> VisionTransformer3D:
    torch.manual_seed(0)
    return VisionTransformer3D(image_size=32, width=48, depth=4, heads=3)


def test_the_vector_of_a_vit_is_its_last_class_tokens_and_the_mean_patch() -> None:
    vit, image = _vit().eval(), torch.randn(2, 1, 32, 16, 32)
    with torch.no_grad():
        found = pooled_features(vit, image, layers=2, mean_patch=True)
        layers = vit.intermediate_layers(image, 2)
        last = vit.forward_features(image)
    assert found.shape == (2, pooled_width(vit, 2, True)) == (2, 144)
    torch.testing.assert_close(found[:, :48], layers[0][0])
    torch.testing.assert_close(found[:, 48:96], last.cls_token)
    torch.testing.assert_close(found[:, 96:], last.patch_tokens.mean(1))


@pytest.mark.parametrize("kind", ["vit", "pyramid"])
def test_an_image_network_takes_any_size_and_learns_to_tell_bright_from_dark(kind: str) -> None:
    backbone = _vit() if kind == "vit" else ResidualUNet(channels=(4, 8))
    network = ImageNetwork(backbone, ImageHead(pooled_width(backbone), 2)).train()
    names = [name for name, _ in network.head.named_parameters()]
    assert names[0] == "layers.0.weight" and network.head.layers[3].out_features == 2  # Linear, GELU, BatchNorm, Linear
    truth = torch.tensor([0, 1, 0, 1])
    # one half bright or dark, the other not: an instance norm cannot remove that
    image = torch.zeros(4, 1, 20, 16, 16)
    image[:, :, :10] = (2.0 * truth - 1).view(-1, 1, 1, 1, 1)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(image), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2


@pytest.mark.parametrize("kind", ["vit", "pyramid"])
def test_joint_scores_are_those_of_the_two_heads_alone(kind: str) -> None:
    backbone = _vit() if kind == "vit" else ResidualUNet(channels=(4, 8))
    head = JointHead(LinearHead(backbone.feature_channels, 3), ImageHead(pooled_width(backbone), 5))
    network = JointNetwork(backbone, head).eval()
    image = torch.randn(2, 1, 32, 16, 18)
    with torch.no_grad():
        voxels, whole = network(image)
        assert voxels.shape == (2, 3, 32, 16, 18) and whole.shape == (2, 5)
        vector = pooled_features(backbone, image)[..., None, None, None]
        torch.testing.assert_close(whole, network.head.image([vector]), atol=1e-5, rtol=1e-4)


def test_the_tokens_of_several_channels_lie_side_by_side() -> None:
    folded = FoldedChannels(_vit().eval(), 2)
    image = torch.randn(3, 2, 32, 16, 32)
    with torch.no_grad():
        found = pooled_features(folded, image, layers=1, mean_patch=True)
        single = [pooled_features(folded.backbone, image[:, i : i + 1], mean_patch=True) for i in (0, 1)]
    assert found.shape == (3, 192)
    torch.testing.assert_close(found[:, :96], torch.cat([one[:, :48] for one in single], 1))
    torch.testing.assert_close(found[:, 96:], torch.cat([one[:, 48:] for one in single], 1))
