"""Signals in plain Python: qt.Signal in a scripted module crashes PythonQt (Slicer's forum, topic 3278)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls what is connected, in the order of connecting, on the thread that emits."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., None]] = []

    def connect(self, slot: Callable[..., None]) -> None:
        """Call ``slot`` at each emission from now on; connecting twice is connecting once."""
        if slot not in self._slots:
            self._slots.append(slot)

    def disconnect(self, slot: Callable[..., None]) -> None:
        """Stop calling ``slot``."""
        if slot in self._slots:
            self._slots.remove(slot)

    def disconnectAll(self) -> None:
        """Stop calling anything."""
        self._slots.clear()

    def emit(self, *values: Any) -> None:
        """Call every slot with these values."""
        for slot in list(self._slots):
            slot(*values)
