"""Speed of pretraining: the data pipeline and the optimisation step, each beside a plain peer, in one run.

    python benchmarks/pretraining.py [--part step] [--batch 2] [--prototypes 65536] [--steps 4]

**data** is ``benchmarks/pretraining_data.py``: crops from the store beside MONAI's transforms on .nii.gz.

**step** is a whole optimisation step of 3DINO's recipe with a ViT-S: 2 global crops of 96^3 and 8 local ones of 48^3
per image, student, teacher, both heads, all losses, clipping, AdamW, moving average. "plain" is the published order:
a pass per crop size, the scores of all prototypes held for all tokens in float32 and copied by softmax and
Sinkhorn-Knopp, torch's default AdamW, a loop over parameters for the teacher. Both have the same modules, the same
stochastic depth (which leaves dropped images out of the work, as published) and, without it, equal losses and
gradient norms, which is checked first. "FM3D" is the engine's default, which keeps the matrix products of a block and
computes norms and GELU again; "checkpointed" has run.activation_checkpointing=true. Each form runs in processes of its
own with one thread; CPU seconds are the least of several steps, peak memory is that of the whole process.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tyro
from rich.console import Console
from rich.table import Table

Form = Literal["plain", "FM3D", "FM3D checkpointed"]
TEMPERATURE, STUDENT_TEMPERATURE, MOMENTUM, CLIP = 0.05, 0.1, 0.992, 3.0
WIDTH, DEPTH, HEADS = 384, 12, 6  # ViT-S
LARGEST_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        part: "data", "step" or both.
        batch: images of a step.
        prototypes: of each head.
        drop_path: of the student in the timed steps.
        steps: timed ones of each form.
        form: only this form of the step, as JSON; used by the benchmark itself for its processes.
    """

    part: Literal["data", "step", "both"] = "both"
    batch: int = 2
    prototypes: int = 65_536
    drop_path: float = 0.3
    steps: int = 4
    form: Form | None = None


def main(settings: Benchmark) -> None:
    """Measure what was asked for and print the tables."""
    if settings.part in ("data", "both"):
        import pretraining_data

        pretraining_data.main(pretraining_data.Benchmark())
    if settings.part in ("step", "both"):
        compare_steps(settings)


def compare_steps(settings: Benchmark) -> None:
    """Check that both forms minimise the same, measure each, print the table."""
    equal = {form: in_own_process(settings, form, steps=0) for form in get_args(Form)}
    difference = max(
        abs(other["terms"][name] - value) / max(abs(value), 1)
        for other in equal.values()
        for name, value in equal["plain"]["terms"].items()
    )
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the forms do not minimise the same: {equal}")
    found = {form: in_own_process(settings, form, steps=settings.steps) for form in get_args(Form)}
    table = Table("step", "CPU s", "forward", "backward", "optimiser and teacher", "peak MB")
    for form, values in found.items():
        parts = [f"{values[name]:.2f}" for name in ("seconds", "forward", "backward", "update")]
        table.add_row(form, *parts, f"{values['peak'] / 1e6:.0f}")
    console = Console(width=120)
    console.print(table)
    plain = found.pop("plain")
    console.print(
        f"Batch {settings.batch}, {settings.prototypes} prototypes, stochastic depth {settings.drop_path}; without it "
        f"losses and gradient norms differ by at most {difference:.0e}."
    )
    for form, ours in found.items():
        console.print(
            f"{form}: {plain['seconds'] / ours['seconds']:.2f} times as fast with {ours['peak'] / plain['peak']:.2f} "
            "of the memory"
        )


def in_own_process(settings: Benchmark, form: Form, steps: int) -> dict[str, Any]:
    """The result of :func:`measure` in a fresh process with one thread; ``steps`` 0 compares without dropping."""
    drop = settings.drop_path if steps else 0.0
    command = [sys.executable, __file__, "--form", form, "--batch", str(settings.batch), "--steps", str(steps)]
    command += ["--prototypes", str(settings.prototypes), "--drop-path", str(drop)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(settings: Benchmark, form: Form) -> dict[str, Any]:
    """Losses and gradient norms of the first step, CPU seconds of the fastest of ``settings.steps`` further ones."""
    import torch

    from fm3d_core.models import linear

    torch.set_num_threads(1)
    if form == "plain":  # torch's own linear layers
        linear.onednn_is_quicker = lambda: False
    model, batch = build(settings)
    step = losses_of(form)
    model.student.backbone.recompute_elementwise = form == "FM3D"
    model.student.backbone.activation_checkpointing = form == "FM3D checkpointed"
    optimiser = torch.optim.AdamW(model.student.parameters(), lr=1e-5, fused=None if form == "plain" else True)
    terms: dict[str, float] = {}
    best = dict.fromkeys(("seconds", "forward", "backward", "update"), float("inf"))
    for number in range(1 + settings.steps):
        torch.manual_seed(number)
        times = [time.process_time()]
        losses = step(model, batch)
        times.append(time.process_time())
        torch.stack(list(losses.values())).sum().backward()
        times.append(time.process_time())
        norms = model.clip_gradients(CLIP)
        optimiser.step()
        optimiser.zero_grad()
        update_teacher(form, model)
        times.append(time.process_time())
        values = {name: value.item() for name, value in (losses | norms).items()}
        terms = terms or values
        del losses, norms
        spent = [times[-1] - times[0], *(after - before for before, after in itertools.pairwise(times))]
        if number and spent[0] < best["seconds"]:  # the first step makes the optimiser's state
            best = dict(zip(best, spent, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**{name: value for name, value in best.items() if settings.steps}, "peak": peak, "terms": terms}


def build(settings: Benchmark) -> tuple[Any, Any]:
    """Student and teacher, and a batch with masks, from fixed seeds."""
    import random

    import torch

    from fm3d_core.models.vit import VisionTransformer3D
    from fm3d_core.pretraining.masking import CropBatch, MaskSettings, draw_masks
    from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings

    torch.manual_seed(0)
    head = HeadSettings(settings.prototypes)
    # with 3DINO's LayerScale of 1e-5 an untrained network's CLS tokens differ by rounding only, and KoLeo is noise
    shape = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "layer_scale": 1.0}
    backbone = VisionTransformer3D(96, **shape, drop_path=settings.drop_path)
    model = SelfDistillation(backbone, SelfDistillationSettings(head=head, ibot_head=head)).train()
    with torch.no_grad():  # a teacher that is not the student
        for parameter in model.teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    masks = draw_masks(2 * settings.batch, (6, 6, 6), MaskSettings(), random.Random(0))
    crops = torch.randn(2 * settings.batch, 1, 96, 96, 96), torch.randn(8 * settings.batch, 1, 48, 48, 48)
    return model, CropBatch(*crops, masks, settings.batch)


def losses_of(form: Form) -> Any:
    """The function (model, batch) -> terms of a form."""
    if form == "plain":
        return plain_losses
    return lambda model, batch: model(batch, TEMPERATURE)


def plain_losses(model: Any, batch: Any) -> dict[str, Any]:
    """The terms as published: whole score matrices, a pass per crop size."""
    import torch
    from prototype_losses import sinkhorn_knopp_plain
    from torch.nn import functional as F

    masks, size = batch.masks, batch.batch
    with torch.no_grad():
        taught = model.teacher.backbone.forward_features(batch.global_crops)
        hidden = taught.patch_tokens.flatten(0, 1)[masks.indices]
        wanted_views = sinkhorn_knopp_plain(model.teacher.dino_head(taught.cls_token).float(), TEMPERATURE).chunk(2)
        wanted_patches = sinkhorn_knopp_plain(model.teacher.ibot_head(hidden).float(), TEMPERATURE)
    (seen,) = model.student.backbone.forward_many([batch.global_crops], [masks.hidden])
    (local,) = model.student.backbone.forward_many([batch.local_crops])
    scores = model.student.dino_head(torch.cat([local.cls_token, seen.cls_token]))
    local_scores, global_scores = scores.split([len(local.cls_token), len(seen.cls_token)])
    patch_scores = model.student.ibot_head(seen.patch_tokens.flatten(0, 1)[masks.indices])

    def cross_entropy(student: Any, teacher: Any) -> Any:
        return -(teacher * F.log_softmax(student / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1)

    pairs = 2 * (len(local_scores) // size) + 2
    of_locals = sum(
        cross_entropy(view, wanted).mean()
        for view in local_scores.chunk(len(local_scores) // size)
        for wanted in wanted_views
    )
    of_globals = sum(
        cross_entropy(view, wanted).mean()
        for view, wanted in zip(global_scores.chunk(2), reversed(wanted_views), strict=True)
    )
    patches = (cross_entropy(patch_scores, wanted_patches) * masks.weights).sum() / len(batch.global_crops)
    return {
        "dino_global": of_globals / pairs,
        "dino_local": of_locals / pairs,
        "ibot": patches,
        "koleo": 0.1 * sum(koleo(view) for view in seen.cls_token.chunk(2)),
    }


def koleo(tokens: Any) -> Any:
    """Sablayrolles et al. 2019 as written."""
    import torch
    from torch.nn import functional as F

    rows = F.normalize(tokens, eps=1e-8)
    likeness = (rows @ rows.T).detach().fill_diagonal_(-1)
    distance = F.pairwise_distance(rows, rows[likeness.argmax(dim=1)], eps=1e-8)
    return -torch.log(distance + 1e-8).mean()


def update_teacher(form: Form, model: Any) -> None:
    """The moving average; the plain form's one parameter after the other."""
    import torch

    if form != "plain":
        model.update_teacher(MOMENTUM)
        return
    with torch.no_grad():
        for mine, theirs in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            mine.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)


if __name__ == "__main__":
    chosen = tyro.cli(Benchmark)
    if chosen.form is None:
        main(chosen)
    else:
        sys.stdout.write(json.dumps(measure(chosen, chosen.form)))
