"""Residual U-Net blocks with MONAI's parameter names and results, computed with less time and memory.

- A transposed convolution, a concatenation and a convolution are linear: they are done as one transposed convolution
  of the coarse map plus one convolution of the skip, and neither the upsampled map nor the concatenation exists.
- Maps stay in channels-last layout, twice as fast on a CPU.
- Without gradients, norms, sums and activations work in place.

MONAI's UnetResBlock, UnetrUpBlock and UnetrPrUpBlock (Isensee et al. 2019; Hatamizadeh et al. 2022) with instance norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

_EPS = 1e-5  # of PyTorch's and MONAI's instance norm


class Convolution(nn.Module):
    """A convolution without bias under MONAI's name ``conv``, with padding that keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return convolve(maps, self.conv.weight)


class Upsampling(nn.Module):
    """A transposed convolution of stride 2 without bias under MONAI's name ``conv``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(inputs, outputs, kernel_size=2, stride=2, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.conv(channels_last(maps))


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with instance norm and leaky ReLU, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, 3)
        self.conv2 = Convolution(outputs, outputs, 3)
        self.conv3 = Convolution(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, inputs, X, Y, Z) -> (B, outputs, X, Y, Z)."""
        return self.combine(self.conv1(maps), lambda: self.conv3(maps) if self.conv3 else maps)

    def combine(self, convolved: torch.Tensor, shortcut: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What follows the first convolution.

        Args:
            convolved: its output; overwritten when gradients are off.
            shortcut: gives the other branch before its norm; called late, so that both are not held for long.
        """
        maps = _activate(instance_norm(convolved))
        del convolved
        maps = instance_norm(self.conv2(maps))
        branch = shortcut()
        return _activate(add(maps, instance_norm(branch) if self.conv3 else branch))


class UpsamplingBlock(nn.Module):
    """Doubles the resolution, joins the skip and applies a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.transp_conv = Upsampling(inputs, outputs)
        self.conv_block = ResidualBlock(2 * outputs, outputs)

    def forward(self, coarse: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, inputs, X, Y, Z) and (B, outputs, 2X, 2Y, 2Z) -> (B, outputs, 2X, 2Y, 2Z)."""

        def joined(convolution: Convolution | None) -> torch.Tensor:
            assert convolution is not None
            from_coarse, from_skip = convolution.conv.weight.chunk(2, dim=1)
            upsampled = upsample_and_convolve(coarse, self.transp_conv.conv.weight, from_coarse)
            return convolve(skip, from_skip, onto=upsampled)

        return self.conv_block.combine(joined(self.conv_block.conv1), lambda: joined(self.conv_block.conv3))


class ProjectionBlock(nn.Module):
    """From token maps to a finer map: doubles the resolution ``1 + steps`` times."""

    def __init__(self, inputs: int, outputs: int, steps: int) -> None:
        super().__init__()
        self.transp_conv_init = Upsampling(inputs, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(Upsampling(outputs, outputs), ResidualBlock(outputs, outputs)) for _ in range(steps)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, inputs, X, Y, Z) -> (B, outputs, X * 2^(1 + steps), ...)."""
        maps = self.transp_conv_init(tokens)
        for block in self.blocks:
            maps = block(maps)
        return maps


def convolve(maps: torch.Tensor, weight: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
    """``conv3d(maps, weight, padding=k // 2)``, added to ``onto`` (overwritten when gradients are off) if given.

    PyTorch's own takes slow paths, and gives up the channels-last layout, for single voxels and for few channels.
    """
    if weight.shape[-1] == 1:
        matrix = weight.flatten(1).T
        if onto is None or torch.is_grad_enabled() or not onto.dtype == maps.dtype == matrix.dtype:
            result = (_voxels(channels_last(maps)) @ matrix).unflatten(1, maps.shape[-3:]).movedim(-1, 1)
            return result if onto is None else onto + result
        onto = channels_last(onto)
        _voxels(onto).baddbmm_(_voxels(channels_last(maps)), matrix.expand(len(maps), -1, -1))
        return onto
    if maps.shape[1] < 4:
        missing = 4 - maps.shape[1]
        maps, weight = (F.pad(tensor, (0, 0, 0, 0, 0, 0, 0, missing)) for tensor in (maps, weight))
    result = F.conv3d(channels_last(maps), channels_last(weight), padding=weight.shape[-1] // 2)
    return result if onto is None else add(onto, result)


def upsample_and_convolve(coarse: torch.Tensor, up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``conv3d(conv_transpose3d(coarse, up, stride=2), weight, padding=k // 2)`` in one step.

    Args:
        coarse: (B, C, X, Y, Z).
        up: (C, M, 2, 2, 2).
        weight: (O, M, k, k, k), k odd.

    Returns:
        (B, O, 2X, 2Y, 2Z).
    """
    composed = channels_last(compose(up, weight))
    return F.conv_transpose3d(channels_last(coarse), composed, stride=2, padding=weight.shape[-1] // 2)


def compose(up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The transposed kernel (C, O, k+1, k+1, k+1) of a transposed convolution of stride 2 and a convolution after it.

    Source voxel i writes voxel 2i + a of the upsampled map, which voxel 2i + a - t + k // 2 of the result reads with
    tap t: entry a - t + k - 1 of the composed kernel.
    """
    taps = weight.shape[-1]
    place = torch.zeros(taps, 2, taps + 1, dtype=up.dtype, device=up.device)
    for tap in range(taps):
        place[tap, range(2), [end - tap + taps - 1 for end in range(2)]] = 1
    product = torch.einsum("omxyz,cmijk->coxiyjzk", weight, up)
    return torch.einsum("coxiyjzk,xia,yjb,zkd->coabd", product, place, place, place)


def instance_norm(maps: torch.Tensor) -> torch.Tensor:
    """Instance norm without parameters; overwrites ``maps`` when gradients are off.

    PyTorch's own copies channels-last maps to another layout and back.
    """
    if torch.is_grad_enabled() and maps.requires_grad:
        return F.instance_norm(maps, eps=_EPS)
    maps = channels_last(maps)
    voxels = _voxels(maps)
    exact = torch.promote_types(maps.dtype, torch.float32)
    voxels.sub_(voxels.mean(dim=1, keepdim=True, dtype=exact))
    # the diagonal of the Gram matrix: the quickest sum of squares over the slow axis
    variance = (voxels.transpose(1, 2) @ voxels).diagonal(dim1=1, dim2=2) / voxels.shape[1]
    voxels.mul_((variance.to(exact) + _EPS).rsqrt().unsqueeze(1))
    return maps


def add(maps: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The sum; overwrites ``maps`` when gradients are off."""
    return maps + other if torch.is_grad_enabled() else maps.add_(other)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor with the channels next to each other in memory."""
    return tensor.contiguous(memory_format=torch.channels_last_3d)


def _voxels(maps: torch.Tensor) -> torch.Tensor:
    """A channels-last map (B, C, X, Y, Z) as (B, N, C): always a view, so that it can be written to."""
    return maps.permute(0, 2, 3, 4, 1).view(maps.shape[0], -1, maps.shape[1])


def _activate(maps: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(maps, 0.01, inplace=not torch.is_grad_enabled())
