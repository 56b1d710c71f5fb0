"""The chunked cross-entropy equals the plain one, value and gradients, in a fraction of its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fm3d_core.pretraining.losses import (
    Center,
    CenteredTargets,
    DenseTargets,
    SinkhornTargets,
    TeacherTargets,
    prototype_cross_entropy,
    sinkhorn_knopp,
    soft_cross_entropy,
)

ROWS, PROTOTYPES, WIDTH = 37, 257, 12


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    return {
        "student": unit(ROWS, WIDTH),
        "teacher": unit(ROWS, WIDTH),
        "prototypes": unit(PROTOTYPES, WIDTH),
        "teacher_prototypes": unit(PROTOTYPES, WIDTH),
        "weights": torch.rand(ROWS, generator=generator),
        "pairs": torch.randint(ROWS, (ROWS, 2), generator=generator),
    }


def _sinkhorn(keep_scores: bool) -> Callable[[torch.Tensor, torch.Tensor], TeacherTargets]:
    return lambda features, prototypes: SinkhornTargets(features, prototypes, 0.05, keep_scores=keep_scores)


TARGETS = {
    "sinkhorn_kept": _sinkhorn(True),
    "sinkhorn_recomputed": _sinkhorn(False),
    "softmax": lambda features, prototypes: CenteredTargets(
        features, prototypes, Center(PROTOTYPES).value + 0.1 * torch.arange(PROTOTYPES) / PROTOTYPES, 0.05
    ),
}


def _plain_targets(name: str, logits: torch.Tensor) -> torch.Tensor:
    if name == "softmax":
        return torch.softmax((logits - 0.1 * torch.arange(PROTOTYPES) / PROTOTYPES) / 0.05, dim=-1)
    return sinkhorn_knopp(logits, 0.05)


@pytest.mark.parametrize("name", list(TARGETS))
def test_value_and_gradients_equal_the_plain_form(name: str, tensors: dict[str, torch.Tensor]) -> None:
    results = []
    for chunked in (True, False):
        student = tensors["student"].clone().requires_grad_()
        prototypes = tensors["prototypes"].clone().requires_grad_()
        if chunked:
            targets = TARGETS[name](tensors["teacher"], tensors["teacher_prototypes"])
            loss = prototype_cross_entropy(
                student, prototypes, targets, tensors["pairs"], tensors["weights"], 0.1, chunk_entries=5 * PROTOTYPES
            )
        else:
            wanted = _plain_targets(name, tensors["teacher"] @ tensors["teacher_prototypes"].T)
            logits = student @ prototypes.T
            rows = sum(soft_cross_entropy(logits, wanted[column], 0.1) for column in tensors["pairs"].T)
            loss = (rows * tensors["weights"]).sum()
        (3 * loss).backward()
        results.append((loss.detach(), student.grad, prototypes.grad))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences(tensors: dict[str, torch.Tensor]) -> None:
    targets = DenseTargets(torch.softmax(torch.randn(ROWS, PROTOTYPES), dim=-1))

    def loss(student: torch.Tensor) -> torch.Tensor:
        return prototype_cross_entropy(
            student, tensors["prototypes"], targets, tensors["pairs"], tensors["weights"], 0.1
        )

    student = tensors["student"].clone().requires_grad_()
    loss(student).backward()
    step = torch.zeros_like(student)
    step[3, 4] = 1e-2
    slope = (loss(student + step) - loss(student - step)).item() / 2e-2
    assert student.grad is not None and abs(slope - student.grad[3, 4].item()) < 1e-2 * abs(slope) + 1e-3


def test_half_precision_stays_close_and_the_gradients_have_the_parameters_types(
    tensors: dict[str, torch.Tensor],
) -> None:
    def run(autocast: bool) -> tuple[torch.Tensor, torch.Tensor]:
        student = tensors["student"].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            targets = SinkhornTargets(tensors["teacher"], tensors["teacher_prototypes"], 0.05)
            loss = prototype_cross_entropy(
                student, tensors["prototypes"], targets, tensors["pairs"], tensors["weights"], 0.1
            )
        loss.backward()
        assert loss.dtype == torch.float32 and student.grad is not None and student.grad.dtype == torch.float32
        return loss.detach(), student.grad

    (half, half_gradient), (full, full_gradient) = run(True), run(False)
    torch.testing.assert_close(half, full, rtol=2e-2, atol=0)
    assert torch.nn.functional.cosine_similarity(half_gradient.flatten(), full_gradient.flatten(), dim=0) > 0.999


def test_no_rows_give_zero_and_zero_gradients() -> None:
    student, prototypes = torch.empty(0, WIDTH, requires_grad=True), torch.randn(5, WIDTH, requires_grad=True)
    loss = prototype_cross_entropy(
        student, prototypes, DenseTargets(torch.empty(0, 5)), torch.empty(0, 1, dtype=torch.long), torch.empty(0), 0.1
    )
    loss.backward()
    assert loss.item() == 0 and prototypes.grad is not None and prototypes.grad.abs().sum() == 0


_PEAK = """
import sys, threading, psutil, torch
from fm3d_core.pretraining.losses import *
rows, prototypes, width = 512, 32768, 32
unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape), dim=-1)
student, directions = unit(rows, width).requires_grad_(), unit(prototypes, width).requires_grad_()
pairs, weights = torch.arange(rows)[:, None], torch.full((rows,), 1 / rows)
process, done, seen = psutil.Process(), threading.Event(), []
before = process.memory_info().rss

def watch():
    while not done.wait(0.001):
        seen.append(process.memory_info().rss)

watcher = threading.Thread(target=watch)
watcher.start()
if sys.argv[1] == "plain":
    wanted = sinkhorn_knopp(student.detach() @ directions.detach().T, 0.05)
    loss = (soft_cross_entropy(student @ directions.T, wanted, 0.1) * weights).sum()
else:
    targets = SinkhornTargets(student, directions, 0.05, keep_scores=sys.argv[1] == "kept")
    loss = prototype_cross_entropy(student, directions, targets, pairs, weights, 0.1, chunk_entries=2**20)
loss.backward()
done.set()
watcher.join()
print((max(seen) - before) / (rows * prototypes * 4))
"""


def test_it_holds_at_most_one_copy_of_the_scores_where_the_plain_form_holds_several() -> None:
    def copies(form: str) -> float:
        done = subprocess.run([sys.executable, "-c", _PEAK, form], capture_output=True, text=True, check=True)
        return float(done.stdout)

    plain, kept, recomputed = copies("plain"), copies("kept"), copies("recomputed")
    assert plain > 3.5
    assert kept < 2
    assert recomputed < 1.5
