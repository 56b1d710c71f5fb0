"""Memory and time of the iBOT loss with 65,536 prototypes: FM3D's chunked form beside the plain one, in one run.

    python benchmarks/prototype_losses.py [--rows 2000] [--prototypes 65536]

Each form runs in a process of its own, with one thread: Sinkhorn-Knopp targets of the teacher, cross-entropy of the
student, backward to features and prototypes. "plain" is the textbook form on whole n x K tensors, as in DINOv2's
published recipe. Peak memory is what the process needed beyond what it had before, also in copies of one n x K
float32 tensor; differences are to the plain form, the gradients' relative to its largest entry.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

Form = Literal["plain", "kept", "recomputed"]
WIDTH = 256


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        rows: masked patches n.
        prototypes: K.
        form: only this one, as JSON; used by the benchmark itself for its processes.
        reference: where the plain form's result lies.
    """

    rows: int = 2000
    prototypes: int = 65_536
    form: Form | None = None
    reference: Path | None = None


def main(settings: Benchmark) -> None:
    """Measure each form in a process of its own and print the table."""
    table = Table("form", "peak MB", "copies", "CPU s", "loss", "d loss", "d features", "d prototypes")
    with tempfile.TemporaryDirectory() as folder:
        for form in get_args(Form):
            command = [sys.executable, __file__, "--form", form, "--reference", f"{folder}/plain.pt"]
            command += ["--rows", str(settings.rows), "--prototypes", str(settings.prototypes)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout)
            copies = found["peak"] / (4 * settings.rows * settings.prototypes)
            cells = [f"{found['peak'] / 1e6:.0f}", f"{copies:.2f}", f"{found['seconds']:.2f}", f"{found['loss']:.5f}"]
            table.add_row(form, *cells, *(f"{value:.1e}" for value in found["differences"]))
    Console().print(table)


def measure(form: Form, rows: int, prototypes: int, reference: Path) -> dict[str, object]:
    """Peak bytes, CPU seconds and loss of one form; saves the plain form's result and compares the others with it."""
    import torch

    from fm3d_core.pretraining.losses import SinkhornTargets, ibot_loss

    generator = torch.Generator().manual_seed(0)

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)

    teacher, teacher_prototypes = unit(rows), unit(prototypes)
    student, directions = unit(rows).requires_grad_(), unit(prototypes).requires_grad_()
    weights = torch.full((rows,), 1 / 100)
    images = rows // 50
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if form == "plain":
        with torch.no_grad():
            wanted = sinkhorn_knopp_plain(teacher @ teacher_prototypes.T, 0.05)
        logits = student @ directions.T
        losses = -(wanted * torch.log_softmax(logits / 0.1, dim=-1)).sum(dim=-1)
        loss = (losses * weights).sum() / images
    else:
        targets = SinkhornTargets(teacher, teacher_prototypes, 0.05, keep_scores=form == "kept")
        loss = ibot_loss(student, directions, targets, weights, images)
    loss.backward()
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    result = [loss.detach(), student.grad, directions.grad]
    differences = [0.0, 0.0, 0.0]
    if form == "plain":
        torch.save(result, reference)
    else:
        expected = torch.load(reference, weights_only=True)
        pairs = list(zip(result, expected, strict=True))
        differences = [((mine - plain).abs().max() / plain.abs().max()).item() for mine, plain in pairs]
    return {"peak": peak, "seconds": seconds, "loss": loss.item(), "differences": differences}


def sinkhorn_knopp_plain(logits, temperature: float):  # type: ignore[no-untyped-def]
    """Sinkhorn-Knopp as written, on the whole matrix (3 iterations)."""
    assignment = (logits / temperature).exp().T
    prototypes, rows = assignment.shape
    assignment /= assignment.sum()
    for _ in range(3):
        assignment /= assignment.sum(dim=1, keepdim=True)
        assignment /= prototypes
        assignment /= assignment.sum(dim=0, keepdim=True)
        assignment /= rows
    return (assignment * rows).T


if __name__ == "__main__":
    chosen = tyro.cli(Benchmark)
    if chosen.form is None or chosen.reference is None:
        main(chosen)
    else:
        sys.stdout.write(json.dumps(measure(chosen.form, chosen.rows, chosen.prototypes, chosen.reference)))
