"""What a finetuning method costs on a backbone: parameters, file, and, measured, time and memory of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from fm3d_core.adaptation.methods import Method
    from fm3d_core.models.network import DenseNetwork

EDGE = 64  # voxels of the crop that is measured; the next size the backbone takes
STEPS = 3  # timed after one that is not


@dataclass(frozen=True)
class StepCost:
    """Of one training step on one crop.

    Attributes:
        seconds: mean.
        memory: bytes kept for the backward pass, with gradients and the optimiser's state; without the network itself.
    """

    seconds: float
    memory: int


@dataclass(frozen=True)
class MethodCost:
    """Of a method on a backbone with one structure.

    Attributes:
        parameters: numbers that train, those of the head included.
        file_bytes: of an adapter's tensors.
        step: None unless measured.
    """

    parameters: int
    file_bytes: int
    step: StepCost | None = None


def cost_of(method: Method, backbone: str, *, measure: bool = False, device: str = "auto") -> MethodCost:
    """Build the network of a method with random weights and count.

    Args:
        method: what trains.
        backbone: name of a preset.
        measure: whether to train a few steps on a made crop, too.
        device: auto, cpu or cuda.

    Raises:
        SettingsError: unknown preset or device, or a backbone that has not what the method needs.
    """
    from fm3d_core.adaptation.adapter import stored_bytes, trained_tensors
    from fm3d_core.adaptation.methods import NoTraining
    from fm3d_core.devices import choose_device
    from fm3d_core.models.network import DenseNetwork
    from fm3d_core.models.zoo import BackboneSpec, create_backbone
    from fm3d_core.tasks import SegmentationTask

    place = choose_device(device)
    built = create_backbone(BackboneSpec(backbone))
    network = DenseNetwork(built, SegmentationTask(("a",)).build_head(built, linear=method.linear_head))
    method.apply(network)
    file_bytes = sum(stored_bytes(name, tensor) for name, tensor in trained_tensors(network).items())
    if method.name == NoTraining.name:
        return MethodCost(0, file_bytes)
    parameters = sum(each.numel() for each in network.parameters() if each.requires_grad)
    step = _measure(network.to(place), method, place) if measure else None
    return MethodCost(parameters, file_bytes, step)


def _measure(network: DenseNetwork, method: Method, device: torch.device) -> StepCost:
    """Train a few steps as :func:`fm3d_core.adaptation.finetune` does."""
    import torch

    from fm3d_core.adaptation.cases import TrainingCase
    from fm3d_core.adaptation.finetune import batch_source
    from fm3d_core.adaptation.methods import optimiser_of_method
    from fm3d_core.adaptation.settings import FinetuneSettings
    from fm3d_core.adaptation.trainer import Budget, optimise
    from fm3d_core.progress import ignore_progress, never_stop
    from fm3d_core.tasks import SegmentationTask

    network.train()
    if method.frozen_backbone:
        network.backbone.eval()
    x, y, z = (-(-EDGE // step) * step for step in network.size_multiple)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(network.backbone.input_channels, x, y, z, generator=generator) * 2 - 1
    case = TrainingCase("made", image, (image[:1] > 0).to(torch.uint8), (1.0, 1.0, 1.0))
    settings = FinetuneSettings(batch_size=1)
    source = batch_source(network, method, [case], (x, y, z), settings, device, ignore_progress, never_stop)

    def train(steps: int) -> float:
        record = optimise(
            source,
            network.parameters(),
            SegmentationTask(("a",)).loss(),
            Budget(1.0, steps),
            learning_rate=method.learning_rate,
            optimiser=optimiser_of_method(method),
            device=device,
            progress=ignore_progress,
            should_stop=never_stop,
        )
        return record.seconds / record.steps

    fixed = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        train(1)
    trained = sum(each.nbytes for each in network.parameters() if each.requires_grad)
    return StepCost(train(STEPS), sum(kept.values()) + 3 * trained)  # gradient and AdamW's two moments
