"""Weights and optimiser as plain whole tensors, however many processes hold them: a checkpoint fits any number.

With one process or DDP they are whole already; FSDP2's shards (DTensors) are gathered when read and cut when loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def whole(tensor: torch.Tensor, keep: bool = True) -> torch.Tensor:
    """A copy on the CPU, gathered from all processes if it is sharded (then all must call this).

    Args:
        keep: False takes part in the gathering and gives back nothing, so that one process of a node holds the copy.
    """
    gathered = _gathered(tensor.detach())
    return gathered.to("cpu", copy=True) if keep else torch.empty(0)


def module_state(module: nn.Module, keep: bool = True) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, whole; all processes must call this. ``keep`` as for :func:`whole`."""
    return {name: whole(tensor, keep) for name, tensor in module.state_dict().items()}


@torch.no_grad()
def load_module_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put :func:`module_state` back.

    Raises:
        ValueError: names or shapes of another module.
    """
    own = module.state_dict()
    if own.keys() != state.keys():
        different = sorted(own.keys() ^ state.keys())
        raise ValueError(f"{len(different)} tensors differ, first {different[0]}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(_like(tensor, state[name]))


def optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, keep: bool = True
) -> dict[str, dict[str, torch.Tensor]]:
    """An optimiser's moments by the name of the parameter, whole; all processes must call this.

    The groups' learning rates and decays are not in it: the schedules set them at each step.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[parameter]: {key: whole(value, keep) for key, value in moments.items()}
        for parameter, moments in optimizer.state.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, state: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Put :func:`optimizer_state` back.

    Raises:
        ValueError: moments of a parameter that the module does not have.
    """
    parameters = dict(module.named_parameters())
    for name, moments in state.items():
        if name not in parameters:
            raise ValueError(f"the optimiser's state knows a parameter {name}, which is not there")
        parameter = parameters[name]
        place = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter] = {
            # a moment has its parameter's shape; the count of steps is a number, where the kind of step wants it
            key: value.to(place, copy=True) if value.ndim == 0 else _like(parameter.detach(), value)
            for key, value in moments.items()
        }


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    value = value.to(device=tensor.device, dtype=tensor.dtype, copy=True)
    if not _is_sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    shards: Any = tensor
    return distribute_tensor(value, shards.device_mesh, shards.placements)


def _is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor; asked without importing them, which takes a second."""
    return hasattr(tensor, "full_tensor")


def _gathered(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def gradient_norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    """The 2-norm of all gradients together, float32; over all shards where they are sharded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    return _gathered(nn.utils.get_total_norm(gradients)).float()


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> torch.Tensor:
    """Scale the gradients so that their norm is at most ``largest``; the norm before (torch's clip_grad_norm_)."""
    norm = gradient_norm(parameters)
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    gradients: list[Any] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        own = [gradient.to_local() if _is_sharded(gradient) else gradient for gradient in gradients]
        torch._foreach_mul_(own, scale.to(own[0].device))
    return norm
