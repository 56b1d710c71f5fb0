"""One step of self-distillation equals the reference: losses, gradients, weights after AdamW, teacher after EMA."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from fm3d_core.errors import SettingsError
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.masking import CropBatch, Masks
from fm3d_core.pretraining.parameter_groups import parameter_groups, set_step_values
from fm3d_core.pretraining.schedules import StepValues
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings


@pytest.fixture(scope="module")
def reference(parity_file: Any) -> dict[str, Any]:
    return parity_file("ssl_step.pt")


@pytest.fixture(scope="module")
def batch(reference: dict[str, Any], parity_rules: Any) -> CropBatch:
    def crops(kind: str, views: int, edge: int) -> torch.Tensor:
        return torch.stack(
            [parity_rules.inp(f"ssl/{kind}{b}{v}", (1, edge, edge, edge)) for v in range(views) for b in range(3)]
        )

    masks = Masks.of(reference["batch"]["collated_masks"], reference["batch"]["upperbound"])
    assert torch.equal(masks.indices, reference["batch"]["mask_indices_list"])
    return CropBatch(crops("g", 2, 48), crops("l", 3, 32), masks, batch=3)


HEAD = HeadSettings(prototypes=64, hidden=32, bottleneck=16)
NOISE = 1e-6  # a gradient below it is told from 0 by a few digits in float32; most lie above 1e-3
SETTINGS = SelfDistillationSettings(head=HEAD, ibot_head=HEAD, chunk_entries=5 * 64)  # several chunks in each loss
VARIANTS = {
    "sinkhorn_separate": SETTINGS,
    "centering_separate": replace(SETTINGS, centering="softmax"),
    "sinkhorn_shared": replace(SETTINGS, ibot_head=None),
}


def _theirs(name: str) -> str:
    """The reference cuts its 4 blocks into 4 chunks."""
    return re.sub(r"blocks\.(\d+)\.", r"blocks.\1.\1.", name)


def _model(rules: Any, settings: SelfDistillationSettings) -> SelfDistillation:
    model = SelfDistillation(VisionTransformer3D(image_size=48, width=24, depth=4, heads=3), settings)
    with torch.no_grad():
        for network, prefix in ((model.student, "stu."), (model.teacher, "tea.")):
            for name, parameter in network.named_parameters():
                parameter.copy_(rules.value_for(_theirs(name), parameter.shape, prefix))
    return model.train()


def _backward(model: SelfDistillation, batch: CropBatch, reference: dict[str, Any]) -> dict[str, torch.Tensor]:
    terms = model(batch, reference["config"]["teacher_temp"])
    torch.stack(list(terms.values())).sum().backward()
    return terms


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_losses_and_gradient_norms_equal_the_reference(
    variant: str, batch: CropBatch, reference: dict[str, Any], parity_rules: Any
) -> None:
    model, expected = _model(parity_rules, VARIANTS[variant]), reference[variant]
    terms = _backward(model, batch, reference)
    shown = {  # the reference shows half of two of its terms
        "dino_local_crops_loss": terms["dino_local"],
        "dino_global_crops_loss": terms["dino_global"],
        "ibot_loss": terms["ibot"] / 2,
        "koleo_loss": terms["koleo"] / 2,
    }
    assert {name: value.item() for name, value in shown.items()} == pytest.approx(
        {name: float(value) for name, value in expected["loss_dict"].items()}, rel=1e-5, abs=1e-5
    )
    norms = {name: norm.item() for name, norm in model.clip_gradients().items()}
    assert norms == pytest.approx({k: float(v) for k, v in expected["grad_norm_per_submodule"].items()}, rel=1e-5)
    assert len(batch.masks.indices) == expected["n_masked"]


@pytest.mark.parametrize("keep_teacher_scores", [True, False])
def test_all_gradients_and_the_weights_after_the_step_equal_the_reference(
    keep_teacher_scores: bool, batch: CropBatch, reference: dict[str, Any], parity_rules: Any
) -> None:
    model = _model(parity_rules, replace(SETTINGS, keep_teacher_scores=keep_teacher_scores))
    expected = reference["sinkhorn_separate"]
    _backward(model, batch, reference)
    student = dict(model.student.named_parameters())
    assert {_theirs(name) for name in student} == set(expected["grads"])
    for name, parameter in student.items():
        _close(parameter.grad, expected["grads"][_theirs(name)])
    _step(model, reference["config"])
    for name, parameter in student.items():
        # a gradient that is rounding noise (attention does not depend on the key's bias, for one) is scaled up by Adam
        told = expected["grads"][_theirs(name)].abs() > NOISE
        assert told.float().mean() > (0.6 if name.endswith("attn.qkv.bias") else 0.99), name
        _close(parameter.detach()[told], expected["student_after_step"][_theirs(name)][told])


def test_clipping_the_optimiser_and_the_teacher_equal_the_reference_from_its_gradients(
    reference: dict[str, Any], parity_rules: Any
) -> None:
    model, expected = _model(parity_rules, SETTINGS), reference["sinkhorn_separate"]
    student, teacher = dict(model.student.named_parameters()), dict(model.teacher.named_parameters())
    for name, parameter in student.items():
        parameter.grad = expected["grads"][_theirs(name)].clone()
    _step(model, reference["config"])
    for name in student:
        torch.testing.assert_close(student[name], expected["student_after_step"][_theirs(name)], atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(teacher[name], expected["teacher_after_ema"][_theirs(name)], atol=1e-6, rtol=1e-6)


def _close(mine: torch.Tensor | None, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def _step(model: SelfDistillation, config: dict[str, Any]) -> None:
    """Clip, AdamW, EMA with the reference's values."""
    model.clip_gradients(config["clip"])
    groups = parameter_groups(
        model.student.named_parameters(),
        config["depth"],
        layer_decay=config["layerwise_decay"],
        patch_embed_factor=config["patch_embed_lr_mult"],
    )
    values = StepValues(config["lr"], config["last_layer_lr"], config["wd"], config["ema"], config["teacher_temp"])
    optimiser = torch.optim.AdamW(groups, betas=config["betas"])
    set_step_values(optimiser.param_groups, values)
    optimiser.step()
    model.update_teacher(values.teacher_momentum)


def test_nothing_masked_and_no_local_crops_still_give_every_parameter_a_gradient(batch: CropBatch) -> None:
    """DDP waits for the gradient of every parameter."""
    torch.manual_seed(0)
    model = SelfDistillation(VisionTransformer3D(image_size=48, width=24, depth=1, heads=3), SETTINGS).train()
    masks = Masks.of(torch.zeros_like(batch.masks.hidden))
    terms = model(CropBatch(batch.global_crops, None, masks, 3), 0.05)
    assert terms["ibot"].item() == 0 and "dino_local" not in terms
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.student.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def test_the_teacher_starts_as_the_student_and_never_drops() -> None:
    backbone = VisionTransformer3D(image_size=32, width=24, depth=2, heads=3, drop_path=0.9, layer_scale=1.0)
    model = SelfDistillation(backbone, SETTINGS).train()
    for mine, theirs in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
        assert torch.equal(mine, theirs) and not mine.requires_grad
    image = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.teacher.backbone(image), model.teacher.backbone(image))
    assert model.student.training and not model.teacher.training


def test_the_centre_is_part_of_the_checkpoint_and_rests_in_evaluation(batch: CropBatch) -> None:
    model = SelfDistillation(
        VisionTransformer3D(image_size=48, width=24, depth=1, heads=3), VARIANTS["centering_separate"]
    )
    with torch.no_grad():
        model.eval()(batch, 0.05)
        assert model.state_dict()["dino_center.value"].abs().sum() == 0
        model.train()(batch, 0.05)
    assert model.state_dict()["dino_center.value"].abs().sum() > 0
    assert model.state_dict()["ibot_center.value"].abs().sum() > 0


def test_an_unknown_centering_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown centering 'whitening'.*sinkhorn_knopp or softmax"):
        SelfDistillationSettings(centering="whitening")  # type: ignore[arg-type]
