"""A linear layer that is quick in float32 on every processor.

PyTorch multiplies float32 matrices with Intel's MKL, which on processors of other makers takes about twice as long as
oneDNN, which PyTorch has too and uses for other types (benchmarks/backbones.py --floor; measured on an AMD EPYC).
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Linear(nn.Linear):
    """``torch.nn.Linear``, with the same results up to rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        return linear(input, self.weight, self.bias)


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``torch.nn.functional.linear``; by oneDNN where that is known to be quicker."""
    if _suits(input, weight):
        return _OneDNNLinear.apply(input, weight, bias)
    return F.linear(input, weight, bias)


def _suits(input: torch.Tensor, weight: torch.Tensor) -> bool:
    if torch.compiler.is_compiling() or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    plain = type(input) is torch.Tensor and type(weight) in (torch.Tensor, nn.Parameter)
    return plain and input.dtype == weight.dtype == torch.float32 and input.numel() > 0 and onednn_is_quicker()


@cache
def onednn_is_quicker() -> bool:
    """Whether this is an x86 processor that MKL does not favour, and PyTorch has oneDNN's product."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        intel = "Intel" in platform.processor()
    try:
        torch.ops.mkldnn._linear_pointwise  # noqa: B018  # not a public name: it may go
    except (AttributeError, RuntimeError):
        return False
    return not intel


@cache
def onednn_is_quicker_backward() -> bool:
    """Whether oneDNN takes the two products of the gradients well before MKL does; timed once, in some 50 ms.

    There the matrices are transposed, and processors differ: of two AMD EPYCs it was twice as fast on one and a
    quarter slower on the other. The choice, and with it the rounding, has to be the same in each process, or a run that
    goes on would leave its curve: so it is timed in seconds of this one thread, which other work on the processor does
    not count into, and has to be well before.
    """
    rows, weight, input = torch.randn(384, 1536), torch.randn(1536, 384), torch.randn(384, 384)
    seconds, threads = dict.fromkeys(_GRADIENTS, math.inf), torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for one another, and waiting counts
    try:
        for _ in range(8):
            for choice, (to_rows, to_matrix) in _GRADIENTS.items():
                start = time.thread_time()
                to_rows(rows, weight)
                to_matrix(rows, input)
                seconds[choice] = min(seconds[choice], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return seconds[False] > 1.3 * seconds[True]


def _product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``left @ right.T + bias`` of (n, k) and (m, k)."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


# gradients of input and weight from rows (n, out), weight (out, in) and input (n, in): by MKL and by oneDNN, which
# takes transposed matrices as they are
_GRADIENTS: dict[bool, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    False: (lambda rows, weight: rows @ weight, lambda rows, input: rows.T @ input),
    True: (lambda rows, weight: _product(rows, weight.T), lambda rows, input: _product(rows.T, input.T)),
}


class _OneDNNLinear(torch.autograd.Function):
    """The linear map with its gradients, each one product of oneDNN."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.has_bias = bias is not None
        rows = input.reshape(-1, input.shape[-1]).contiguous()
        return _product(rows, weight.contiguous(), bias).reshape(*input.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()  # (n, out)
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        to_input = to_weight = to_bias = None
        to_rows, to_matrix = _GRADIENTS[onednn_is_quicker_backward()]
        if needs_input:
            to_input = to_rows(rows, weight).reshape(input.shape)
        if needs_weight:
            to_weight = to_matrix(rows, input.reshape(-1, input.shape[-1]))
        if ctx.has_bias and needs_bias:
            to_bias = rows.sum(0)
        return to_input, to_weight, to_bias
