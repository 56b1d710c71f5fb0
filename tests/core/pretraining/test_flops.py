"""The formula counts what torch counts in a real step."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.crops import CropSettings
from fm3d_core.pretraining.flops import step_flops
from fm3d_core.pretraining.loading import ViewSettings
from fm3d_core.pretraining.losses import GramSettings
from fm3d_core.pretraining.masking import CropBatch, MaskSettings, draw_masks
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings

VIEWS = ViewSettings(
    CropSettings((32, 32, 32), 2, (0.5, 1.0), (0.5, 1.0)), CropSettings((16, 16, 16), 3, (0.1, 0.5), (0.1, 0.5))
)
MASKS = MaskSettings(ratio=(0.5, 0.5))
HEAD = HeadSettings(prototypes=512, hidden=64, bottleneck=32)
SETTINGS = SelfDistillationSettings(head=HEAD, ibot_head=replace(HEAD, prototypes=256))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (SETTINGS, {}),
        (replace(SETTINGS, ibot_head=None), {"feed_forward": "swiglu", "register_tokens": 2}),
        (replace(SETTINGS, gram=GramSettings(start=0)), {"drop_path": 0.4}),
        (replace(SETTINGS, ibot_weight=0.0), {"rotary_wavelengths": (4.0, 200.0)}),
    ],
)
def test_the_formula_is_what_torch_counts(
    settings: SelfDistillationSettings, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fm3d_core.models.linear.onednn_is_quicker", lambda: False)  # torch does not count oneDNN's
    torch.manual_seed(0)
    backbone = VisionTransformer3D(32, 8, width=96, depth=2, heads=3, **options)
    model, size = SelfDistillation(backbone, settings).train(), 4
    model.before_step(0)
    masks = draw_masks(2 * size, (4, 4, 4), MASKS, random.Random(0))
    spacings = torch.ones(2 * size, 3), torch.ones(3 * size, 3)
    crops = torch.randn(2 * size, 1, 32, 32, 32), torch.randn(3 * size, 1, 16, 16, 16)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        terms = model(CropBatch(*crops, masks, size, *spacings), 0.05)
        torch.stack(list(terms.values())).sum().backward()
    counted = counter.get_total_flops() / size
    # torch also counts the losses' scalar products, which are no part of the model
    assert step_flops(backbone, settings, VIEWS, MASKS, size) == pytest.approx(counted, rel=0.02)


def test_a_vit_l_step_of_3dino_costs_what_its_size_says() -> None:
    """6 operations per weight and token of the student, 2 of the teacher, and attention on top."""
    backbone = VisionTransformer3D(96, 16, width=1024, depth=24, heads=16, drop_path=0.0)
    weights = sum(parameter.numel() for parameter in backbone.blocks.parameters())
    tokens_global, tokens_local = 2 * 217, 8 * 28
    least = weights * (6 * (tokens_global + tokens_local) + 2 * tokens_global)
    found = step_flops(backbone, SelfDistillationSettings(), ViewSettings(), MaskSettings())
    assert least < found < 1.25 * least
