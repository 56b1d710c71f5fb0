"""What changes the weights in a step: AdamW, or Muon for the kernels of convolutions and AdamW for the rest.

Muon makes the update of a weight matrix orthogonal, so that all its directions learn at one pace (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); scaled to the size of AdamW's updates (Liu et al. 2025,
https://arxiv.org/abs/2502.16982, section 2.2). In a minute of training on one core it was ahead of AdamW at any rate:
of 13 organs in CT it found more by a quarter (benchmarks/optimisers.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import nn

Optimiser = Literal["adamw", "muon"]
OPTIMISERS: tuple[Optimiser, ...] = ("adamw", "muon")
# of the rate that AdamW has for the rest
KERNEL_RATE = 4.5


class Steps(Protocol):
    """What the training loop needs of an optimiser."""

    def set_rate(self, rate: float) -> None: ...

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...


class AdamW:
    """torch's AdamW for all parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, weight_decay: float) -> None:
        self._all = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps."""
        for group in self._all.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._all.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Change the parameters in place."""
        self._all.step()


class MuonForKernels:
    """torch's Muon for the kernels of convolutions, at ``KERNEL_RATE`` times the rate; AdamW for what is left.

    A kernel (out, in, X, Y, Z) is a matrix (out, in * X * Y * Z); torch's Muon takes matrices only, so that it is given
    one that lies on the same memory. 1x1x1 kernels, which classifiers are, and what is no kernel are left to AdamW.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, weight_decay: float) -> None:
        found = [(each, _matrix(each.detach())) for each in parameters]
        self._kernels = [(each, nn.Parameter(matrix)) for each, matrix in found if matrix is not None]
        matrices = [matrix for _, matrix in self._kernels]
        self._muon = (
            torch.optim.Muon(matrices, lr=rate * KERNEL_RATE, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            if matrices
            else None
        )
        rest = [each for each, matrix in found if matrix is None]
        self._rest = AdamW(rest, rate, weight_decay) if rest else None

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps, AdamW's."""
        if self._muon is not None:
            for group in self._muon.param_groups:
                group["lr"] = rate * KERNEL_RATE
        if self._rest is not None:
            self._rest.set_rate(rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for kernel, matrix in self._kernels:
            kernel.grad = matrix.grad = None
        if self._rest is not None:
            self._rest.zero_grad()

    def step(self) -> None:
        """Change the parameters in place."""
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else _flat(kernel.grad, like=kernel)
        if self._muon is not None:
            self._muon.step()
        if self._rest is not None:
            self._rest.step()


def optimiser_of(name: Optimiser, parameters: Sequence[nn.Parameter], rate: float, weight_decay: float) -> Steps:
    """The optimiser of that name over ``parameters``."""
    return (MuonForKernels if name == "muon" else AdamW)(parameters, rate, weight_decay)


def _matrix(weight: torch.Tensor) -> torch.Tensor | None:
    """A kernel's matrix on the same memory; None if the weight is no kernel, or lies in memory in another order."""
    if weight.ndim != 5 or weight.shape[2:].numel() == 1:
        return None
    matrix = _flat(weight, like=weight)
    return matrix if matrix.data_ptr() == weight.data_ptr() else None


def _flat(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(out, in * X * Y * Z) in the order that ``like`` has in memory; orthogonality does not depend on the order."""
    return tensor.flatten(1) if like.is_contiguous() else tensor.movedim(1, -1).flatten(1)
