"""Which processor computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    import torch


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


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 autocast where the processor has it, else a context that does nothing."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
