"""When memory runs out in a training: the batch is halved, the effective batch kept; at last words."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fm3d_core.adaptation import Adapter, FinetuneSettings, LabeledCase, memory
from fm3d_core.adaptation.batches import Batch
from fm3d_core.adaptation.finetune import train
from fm3d_core.adaptation.memory import half_crop, is_shortage, or_on_processor, shortage, told_in_words
from fm3d_core.adaptation.trainer import Budget, TrainingRecord, optimise
from fm3d_core.adaptation.training_set import TrainingSet, read_training_set
from fm3d_core.errors import CaseError, MemoryShortageError
from fm3d_core.models.backbone import Size
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask

CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes. Error code 12"


class _Source:
    """One weight and the numbers 0, 1, 2, ...; the seam: more than ``room`` of them at once are too much."""

    def __init__(self, crops: int, room: int, error: Exception) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.crop: Size = (8, 8, 8)
        self.crops, self._room, self._error, self._next = crops, room, error, 0

    def draw(self) -> Batch:
        self._next += self.crops
        return Batch((torch.arange(self._next - self.crops, self._next).float(),), torch.zeros(1), ("case",))

    def scores(self, batch: Batch) -> torch.Tensor:
        if self.crops > self._room:
            self._next = 0
            raise self._error
        return self.weight * batch.inputs[0]

    def halve(self) -> bool:
        enough = self.crops > 1
        self.crops = max(self.crops // 2, 1)
        return enough


def _train(source: _Source) -> TrainingRecord:
    return optimise(
        source,
        [source.weight],
        lambda scores, target, annotated: ((scores - 1) ** 2).mean(),
        Budget(60, steps=1),
        learning_rate=1e-3,
        device=torch.device("cpu"),
        progress=ignore_progress,
        should_stop=never_stop,
    )


@pytest.mark.parametrize("error", [RuntimeError(CPU), torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_step_in_parts_has_the_gradient_of_the_whole(error: Exception) -> None:
    whole, parted = _Source(4, 4, error), _Source(4, 1, error)
    assert _train(whole).notes == ()
    assert _train(parted).notes == ("Memory ran out: a step took its 4 crops in 4 parts of 1",)
    assert whole.weight.grad is not None and parted.weight.grad is not None
    torch.testing.assert_close(parted.weight.grad, whole.weight.grad)


def test_where_nothing_can_be_smaller_it_ends_in_words() -> None:
    with pytest.raises(MemoryShortageError, match=r"memory is not enough .* linear_probe or a smaller backbone"):
        _train(_Source(4, 0, MemoryError()))
    with pytest.raises(RuntimeError, match="a bug"):
        _train(_Source(4, 0, RuntimeError("a bug")))


def test_a_gpu_that_is_too_small_gives_way_to_the_processor(
    synthetic_cases: list[LabeledCase], task: SegmentationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seam: a GPU that is found, and too small for anything."""
    asked: list[str] = []

    @or_on_processor
    def learn(data: TrainingSet, settings: FinetuneSettings) -> Adapter:
        asked.append(settings.device)
        if settings.device != "cpu":
            raise shortage()
        return train(data, settings)

    data = read_training_set(synthetic_cases, task)
    settings = FinetuneSettings(method="linear_probe", steps=2)
    with pytest.raises(MemoryShortageError):
        learn(data, settings)
    with monkeypatch.context() as patch:
        patch.setattr(memory, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda"))
        adapter = learn(data, settings)
    assert asked == ["auto", "auto", "cpu"]
    assert adapter.card.notes[-1] == "The GPU's memory was not enough: trained on the processor"


def test_a_shortage_outside_of_a_step_ends_in_words_too() -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(MemoryShortageError):
        told_in_words(fail)(RuntimeError(CPU))
    for other in (ValueError("a bug"), CaseError("no case", remedy="Add one")):
        assert not is_shortage(other)
        with pytest.raises(type(other)):
            told_in_words(fail)(other)


def test_a_crop_is_halved_along_its_longest_edge_as_far_as_the_backbone_goes() -> None:
    assert half_crop((64, 48, 32), (8, 8, 8)) == (32, 48, 32)
    assert half_crop((24, 24, 40), (8, 8, 8)) == (24, 24, 16)
    assert half_crop((16, 16, 16), (8, 8, 8)) is None


CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False  # oneDNN may crash where it gets no memory, before PyTorch can say so
from fm3d_core.adaptation.batches import CropSource
from fm3d_core.adaptation.cases import TrainingCase
from fm3d_core.adaptation.trainer import Budget, optimise
from fm3d_core.models.network import DenseNetwork
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.progress import ignore_progress, never_stop
from fm3d_core.tasks import SegmentationTask

task = SegmentationTask(("ball",))
backbone = create_backbone(BackboneSpec("residual_unet_small"))
network = DenseNetwork(backbone, task.build_head(backbone)).train()
generator = torch.Generator().manual_seed(0)
image = torch.rand(1, 32, 32, 32, generator=generator) * 2 - 1
case = TrainingCase("made", image, (image > 0.5).to(torch.uint8), (1.0, 1.0, 1.0))


def train(batch, crop):
    source = CropSource(network, [case], (crop,) * 3, batch, generator, torch.device("cpu"), None)
    record = optimise(source, network.parameters(), task.loss(), Budget(60, steps=1), learning_rate=1e-3,
                      device=torch.device("cpu"), progress=ignore_progress, should_stop=never_stop)
    return source, record


train(1, 16)  # what is loaded at the first step is there before the limit
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (int(sys.argv[1]) << 20),) * 2)
source, record = train(8, 32)
print(json.dumps([source.crops, source.crop, record.steps, record.notes]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of a process's memory is Linux'")
def test_a_real_limit_of_memory_is_met_with_a_smaller_batch() -> None:
    import json

    run = subprocess.run([sys.executable, "-c", CHILD, "150"], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    crops, _, steps, notes = json.loads(run.stdout)
    assert steps == 1 and crops < 8 and notes[0].startswith("Memory ran out: a step took its 8 crops in")
