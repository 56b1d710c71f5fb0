"""What a network's step costs and which of its parameters it uses, found out without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        flops: floating point operations of the forward and backward pass (convolutions and matrix products).
        unreached: names of the parameters that get no gradient.
    """

    flops: float
    unreached: tuple[str, ...]


def probe(module: nn.Module, call: Callable[[nn.Module], torch.Tensor]) -> Probe:
    """Run a forward and backward pass on shapes alone (torch's "meta" device).

    Args:
        call: gets a copy of ``module`` on the meta device and returns any scalar that depends on what is trained.
    """
    shadow = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter:
        call(shadow).backward()
    unreached = tuple(name for name, parameter in shadow.named_parameters() if parameter.grad is None)
    return Probe(float(counter.get_total_flops()), unreached)


def freeze(module: nn.Module, names: tuple[str, ...]) -> None:
    """Take parameters out of the training, such as a mask token that nothing masks.

    Distributed training waits for the gradient of each parameter that wants one.
    """
    for name in names:
        module.get_parameter(name).requires_grad_(False)
