"""Which processor computes, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import torch

FEWEST_VOXELS = 64  # of an image that a convolution sees in bfloat16 on a CPU


def choose_device(name: str = "auto") -> torch.device:
    """The torch device of a name; "auto" takes the first GPU if there is one.

    Raises:
        SettingsError: unknown name or a GPU that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device '{name}' is not available", remedy="Use auto, cpu or cuda") from error
    return device


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation would be slower."""
    import torch

    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware."""
    import torch

    return bool(torch.cuda.is_bf16_supported()) if device.type == "cuda" else cpu_has_bfloat16()


@contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bfloat16 autocast where the processor has it, else a context that does nothing."""
    import torch

    half = torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
    with half, small_convolutions_in_float32(device):
        yield


def small_convolutions_in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions on the smallest images leave autocast on a CPU: smaller than the kernel along some axis, or of fewer
    than ``FEWEST_VOXELS``.

    oneDNN's bfloat16 kernels are wrong there. Seen with PyTorch 2.13: gradients of the weights of a 3x3x3 kernel on an
    image of 2 x 4 x 4, on an AVX512-BF16 processor (memory that was never written; some sizes end the process); on a
    processor with AMX the result itself, of a strided 3x3x3 kernel on 13 x 13 x 2 (hearts of ten slices were found with
    Dice 0.35 instead of 0.47), and with two threads, in one step of six, gradients of a UNETR decoder above 2 x 2 x 1
    tokens. Such images are the deepest of a pyramid, so float32 costs nothing.
    """
    return _small_convolutions_mode()() if device.type == "cpu" else nullcontext()


@cache
def _small_convolutions_mode() -> Callable[[], AbstractContextManager[object]]:
    import torch
    from torch.overrides import TorchFunctionMode

    convolutions = (torch.conv3d, torch.conv_transpose3d)

    class SmallConvolutionsInFloat32(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func not in convolutions or not torch.is_autocast_enabled("cpu"):
                return func(*args, **kwargs)
            image, weight = args[0], args[1]
            covered = all(size >= kernel for size, kernel in zip(image.shape[2:], weight.shape[2:], strict=True))
            if covered and image.shape[2:].numel() >= FEWEST_VOXELS:
                return func(*args, **kwargs)
            with torch.autocast("cpu", enabled=False):
                exact: list[Any] = [each.float() if isinstance(each, torch.Tensor) else each for each in args]
                return func(*exact, **kwargs).to(torch.bfloat16)

    return SmallConvolutionsInFloat32
