"""Two processes (gloo) give the loss and the gradients of one process on the union batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

_PROCESS = """
import sys, torch
from torch import distributed
from fm3d_core.models.vit import VisionTransformer3D
from fm3d_core.pretraining.masking import CropBatch, Masks
from fm3d_core.pretraining.self_distillation import HeadSettings, SelfDistillation, SelfDistillationSettings

folder, centering, rank, world = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
head = HeadSettings(prototypes=32, hidden=16, bottleneck=8)
settings = SelfDistillationSettings(
    head=head, ibot_head=head, centering=centering, koleo_across_ranks=True, chunk_entries=96
)
model = SelfDistillation(VisionTransformer3D(image_size=32, width=24, depth=1, heads=3, layer_scale=1.0), settings)
for parameter in model.teacher.parameters():
    parameter.add_(0.1 * torch.randn_like(parameter))
images, views = 4, 2
crops = torch.randn(views, images, 1, 32, 32, 32)
small = torch.randn(3, images, 1, 16, 16, 16)
hidden = torch.rand(views, images, 8) < torch.tensor([0.9, 0.6, 0.3, 0.0])[None, :, None]  # uneven between processes
if world > 1:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{centering}", rank=rank, world_size=world)
own = slice(rank * images // world, (rank + 1) * images // world)
batch = CropBatch(
    crops[:, own].flatten(0, 1), small[:, own].flatten(0, 1), Masks.of(hidden[:, own].flatten(0, 1)), images // world
)
terms = model.train()(batch, 0.05)
torch.stack(list(terms.values())).sum().backward()
result = {name: value.detach() for name, value in terms.items()}
result |= {name: parameter.grad for name, parameter in model.student.named_parameters()}
result |= {name: buffer for name, buffer in model.named_buffers()}
if world > 1:
    for value in result.values():
        distributed.all_reduce(value)
        value /= world
    distributed.destroy_process_group()
if rank == 0:
    torch.save(result, f"{folder}/{centering}_{world}.pt")
"""


@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "softmax"])
def test_two_processes_equal_one_on_the_union_batch(centering: str, tmp_path: Path) -> None:
    runs = [(0, 1), (0, 2), (1, 2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, str(tmp_path), centering, str(rank), str(world)])
        for rank, world in runs
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    one, two = (torch.load(tmp_path / f"{centering}_{world}.pt", weights_only=True) for world in (1, 2))
    assert set(one) == set(two) and one["ibot"] > 0
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
