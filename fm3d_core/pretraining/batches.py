"""Batches as frozen dataclasses of tensors that go to another device, or into pinned memory, as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

BatchT = TypeVar("BatchT", bound="Batch")


class Batch:
    """Base of a frozen dataclass; its tensors, and those of batches in it, move, and everything else stays."""

    def to(self: BatchT, device: torch.device | str, non_blocking: bool = False) -> BatchT:
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: BatchT) -> BatchT:
        """The same in memory that a GPU copies from while the processor goes on; the loader calls it."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self: BatchT, change: Callable[[torch.Tensor], torch.Tensor]) -> BatchT:
        import torch

        changed: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]  # a dataclass, as its name says
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, Batch):
                changed[item.name] = value._mapped(change)
        return replace(self, **changed)  # type: ignore[type-var]
