"""What a configuration would do, without doing it: sizes, steps, one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm3d_core.pretraining.settings import PretrainSettings


def preview(settings: PretrainSettings, data: Path | None) -> list[str]:
    """Lines about the networks, and with ``data`` about the first batch of one process.

    Raises:
        FM3DError: settings or data that a run would refuse too.
    """
    from fm3d_core.pretraining.launching import processes
    from fm3d_core.pretraining.objective import Place
    from fm3d_core.pretraining.objectives import build_objective

    run = settings.run
    devices, nodes = processes(run)
    world = devices * nodes
    place = Place(0, world, run.batch_per_round(world), 0, run.seed, run.accumulation)
    if data is None and settings.objective != "synthetic":
        return ["Add --data to see the number of parameters and one batch"]
    built = build_objective(settings, data, place)
    lines = [
        f"parameters: backbone {_millions(built.objective.pretrained())}, in all {_millions(built.objective)}, "
        f"trained {_millions(built.objective, trained=True)}",
        f"steps: {built.steps} of {run.batch_size} samples"
        + (
            f", {built.steps * run.batch_size / built.samples:.3g} passes over {built.samples} volumes"
            if built.samples
            else ""
        ),
    ]
    flops = built.objective.flops_per_sample()
    if flops is not None:
        lines.append(
            f"operations: {flops / 1e9:.4g} GFLOP per sample, {flops * run.batch_size * built.steps:.3g} in all"
        )
    batch = next(iter(built.loader))
    lines.append(f"first batch of one process: {len(batch.names)} volumes ({', '.join(batch.names[:4])}, ...)")
    lines += [f"  {name}: {tuple(tensor.shape)} {str(tensor.dtype)[6:]}" for name, tensor in _tensors(batch)]
    return lines


def _millions(module: Any, trained: bool = False) -> str:
    count = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)
    return f"{count / 1e6:.2f} M"


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors in a batch, whatever it is made of."""
    import torch

    if isinstance(content, torch.Tensor):
        yield name, content
    elif dataclasses.is_dataclass(content):
        for item in dataclasses.fields(content):
            yield from _tensors(getattr(content, item.name), f"{name}.{item.name}".lstrip("."))
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}".lstrip("."))
