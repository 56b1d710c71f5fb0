"""Weights and optimiser as plain whole tensors, however many processes hold them: a checkpoint fits any number.

With one process or DDP they are whole already; FSDP2's shards (DTensors) are gathered when read and cut when loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, gathered from all processes if it is sharded (then all must call this)."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True)


def module_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, whole; all processes must call this."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


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


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """An optimiser's moments by the name of the parameter, whole; all processes must call this.

    The groups' learning rates and decays are not in it: the schedules set them at each step.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[parameter]: {key: whole(value) for key, value in moments.items()}
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
    if isinstance(tensor, DTensor):
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value


def gradient_norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    """The 2-norm of all gradients together, float32; over all shards where they are sharded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = nn.utils.get_total_norm(gradients)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).float()


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> torch.Tensor:
    """Scale the gradients so that their norm is at most ``largest``; the norm before (torch's clip_grad_norm_)."""
    norm = gradient_norm(parameters)
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        plain = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
        torch._foreach_mul_(plain, scale.to(plain[0].device))
    return norm
