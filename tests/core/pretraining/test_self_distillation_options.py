"""What 3DINO does not have: one pass for all crops, Gram anchoring, registers, positions in mm, block masks."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.losses import GramSettings
from fm3d_core.pretraining.masking import CropBatch, MaskSettings, draw_masks
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings

HEAD = HeadSettings(prototypes=64, hidden=32, bottleneck=16)
SETTINGS = SelfDistillationSettings(head=HEAD, ibot_head=HEAD)
GRAM = replace(SETTINGS, gram=GramSettings(weight=2.0, start=2, refresh=3))


def _model(settings: SelfDistillationSettings = SETTINGS, **options: Any) -> SelfDistillation:
    torch.manual_seed(0)
    options = {"layer_scale": 1.0, **options}
    return SelfDistillation(VisionTransformer3D(32, 8, width=48, depth=2, heads=3, **options), settings).train()


def _batch(masks: MaskSettings | None = None) -> CropBatch:
    torch.manual_seed(1)
    drawn = draw_masks(4, (4, 4, 4), masks or MaskSettings(), random.Random(0))
    spacings = torch.rand(4, 3) + 0.5, torch.rand(6, 3) + 0.5
    return CropBatch(torch.randn(4, 1, 32, 32, 32), torch.randn(6, 1, 16, 16, 16), drawn, 2, *spacings)


def _sum(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def test_one_pass_for_all_crops_equals_a_pass_per_size() -> None:
    model, batch = _model(), _batch()
    together = model(batch, 0.05)
    _sum(together).backward()
    gradients = [parameter.grad.clone() for parameter in model.student.parameters() if parameter.grad is not None]
    model.zero_grad()

    def apart(batch: CropBatch) -> tuple[Any, Any]:
        backbone = model.student.backbone
        assert batch.local_crops is not None
        seen = backbone.forward_features(batch.global_crops, batch.masks.hidden)
        return seen, backbone.forward_features(batch.local_crops)

    model._student_features = apart  # type: ignore[method-assign,assignment]
    separate = model(batch, 0.05)
    _sum(separate).backward()
    for name, value in together.items():
        torch.testing.assert_close(separate[name], value, atol=1e-6, rtol=1e-5)
    found = [parameter.grad for parameter in model.student.parameters() if parameter.grad is not None]
    assert len(found) == len(gradients)
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ({"register_tokens": 3}, MaskSettings()),
        ({"rotary_wavelengths": (4.0, 200.0)}, MaskSettings()),
        ({}, MaskSettings(shape="blocks")),
        ({"register_tokens": 2, "rotary_wavelengths": (4.0, 200.0), "drop_path": 0.3}, MaskSettings(shape="blocks")),
    ],
)
def test_a_step_with_each_option_is_finite_and_reaches_every_parameter(
    options: dict[str, Any], masks: MaskSettings
) -> None:
    model = _model(GRAM, **options)
    model.before_step(2)
    terms = model(_batch(masks), 0.05)
    assert "gram" in terms
    _sum(terms).backward()
    for name, parameter in model.student.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    before = model.teacher.backbone.cls_token.clone()
    with torch.no_grad():
        model.student.backbone.cls_token.add_(1)
    model.update_teacher(0.9)
    torch.testing.assert_close(model.teacher.backbone.cls_token, before + 0.1)


def test_with_positions_in_mm_each_crop_has_its_own_voxel_size() -> None:
    model, batch = _model(rotary_wavelengths=(4.0, 200.0)).eval(), _batch()
    assert batch.global_spacing is not None
    with torch.no_grad():
        features = model._student_features(batch)[0].patch_tokens
        larger = batch.global_spacing.clone()
        larger[2] *= 2
        changed = model._student_features(replace(batch, global_spacing=larger))[0].patch_tokens
        alone = model.student.backbone.forward_features(
            batch.global_crops[2:3], batch.masks.hidden[2:3], spacing=larger[2].tolist()
        ).patch_tokens
    others = [0, 1, 3]
    torch.testing.assert_close(changed[others], features[others], atol=1e-5, rtol=1e-4)
    assert (changed[2] - features[2]).abs().max() > 1e-3
    torch.testing.assert_close(changed[2:3], alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="needs the image's spacing"):
        model(replace(batch, global_spacing=None), 0.05)


def test_without_gram_anchoring_nothing_of_it_is_there() -> None:
    model, batch = _model(), _batch()
    model.before_step(0)
    assert not any("gram" in name for name in model.state_dict())
    anchored = _model(GRAM)
    anchored.before_step(1)  # before its start
    plain, early = model(batch, 0.05), anchored(batch, 0.05)
    assert plain.keys() == early.keys() and all(torch.equal(plain[name], early[name]) for name in plain)


def test_the_gram_teacher_is_the_teacher_of_certain_steps_and_never_learns() -> None:
    model = _model(GRAM)
    assert model.gram_teacher is not None
    with torch.no_grad():
        model.teacher.backbone.cls_token.fill_(7)
    model.before_step(1)
    assert not torch.equal(model.gram_teacher.cls_token, model.teacher.backbone.cls_token)
    model.before_step(2)
    assert torch.equal(model.gram_teacher.cls_token, model.teacher.backbone.cls_token)
    with torch.no_grad():
        model.teacher.backbone.cls_token.fill_(8)
    model.before_step(4)
    assert model.gram_teacher.cls_token.mean() == 7
    model.before_step(5)
    assert model.gram_teacher.cls_token.mean() == 8
    assert not any(parameter.requires_grad for parameter in model.gram_teacher.parameters())
    assert not model.train().gram_teacher.training  # type: ignore[union-attr]


def test_a_resumed_run_has_the_same_gram_loss() -> None:
    batch, first = _batch(), _model(GRAM)
    first.before_step(2)
    with torch.no_grad():
        for parameter in first.student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    first.update_teacher(0.5)
    first.before_step(3)
    second = _model(GRAM)
    second.load_state_dict(first.state_dict())
    second.before_step(3)
    mine, theirs = first(batch, 0.05), second(batch, 0.05)
    assert mine["gram"].item() > 0 and torch.equal(mine["gram"], theirs["gram"])


def test_gram_anchoring_of_equal_networks_is_zero_where_nothing_is_hidden() -> None:
    model, batch = _model(replace(GRAM, gram=GramSettings(start=0))), _batch(MaskSettings(probability=0))
    model.before_step(0)
    assert model(batch, 0.05)["gram"].item() == pytest.approx(0, abs=1e-9)
