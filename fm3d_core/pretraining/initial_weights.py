"""Student and teacher from the teacher of an earlier run, as 3DINO's high-resolution stage begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fm3d_core.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from fm3d_core.pretraining.self_distillation import DistillationNetworks, SelfDistillation


@dataclass(frozen=True)
class InitialWeights:
    """Where a run begins.

    Attributes:
        path: teacher.safetensors of one of our runs, or a public 3DINO file (teacher_checkpoint.pth).
        heads: take the heads too; False for heads of another shape, or a file without them.
    """

    path: Path
    heads: bool = True


def load_initial_weights(initial: InitialWeights, model: SelfDistillation) -> None:
    """Fill student and teacher; positions are resized to the backbone's grid, everything else must fit exactly.

    Raises:
        WeightsError: unreadable, or a tensor that is missing, left over or of another shape.
    """
    from fm3d_core.models.vit import flat_block_name
    from fm3d_core.models.weights.reading import named_tensors, read_checkpoint

    tensors = {
        flat_block_name(name): value
        for name, value in named_tensors(read_checkpoint(initial.path), "teacher").items()
        if initial.heads or name.startswith("backbone.")
    }
    for network in (model.student, model.teacher):
        _fill(network, tensors, initial)


def _fill(network: DistillationNetworks, tensors: dict[str, torch.Tensor], initial: InitialWeights) -> None:
    wanted = {
        name: value for name, value in network.state_dict().items() if initial.heads or name.startswith("backbone.")
    }
    found = dict(tensors)
    position = "backbone.pos_embed"
    if position in found and position in wanted and found[position].shape != wanted[position].shape:
        found[position] = _resized(found[position], wanted[position], network, initial.path)
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    other = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    for names, problem in ((missing, "is missing"), (unknown, "has no place"), (other, "has another shape")):
        if names:
            head = all("_head." in name for name in names)
            remedy = "Set settings.initial.heads=false to begin with new heads" if head else "Choose its backbone"
            raise WeightsError(
                f"{len(names)} tensors do not fit this run; {names[0]} {problem}", path=initial.path, remedy=remedy
            )
    network.load_state_dict(found, strict=initial.heads)


def _resized(found: torch.Tensor, wanted: torch.Tensor, network: DistillationNetworks, path: Path) -> torch.Tensor:
    from fm3d_core.models.positions import resize_position_embedding

    edge = round((wanted.shape[1] - 1) ** (1 / 3))
    try:
        return resize_position_embedding(found, (edge,) * 3, network.backbone.position_interpolation)
    except ValueError as error:
        raise WeightsError(f"its positions do not fit: {error}", path=path, remedy="Choose another file") from error
