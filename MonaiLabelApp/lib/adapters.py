"""The versions of what was learned, as clients see and change them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fm3d_core.adaptation import AdapterStore, StoredAdapter
from fm3d_core.adaptation.adapter import TENSORS_FILE
from fm3d_core.adaptation.archive import read_archive, write_archive
from fm3d_core.errors import AdapterError
from MonaiLabelApp.lib.errors import Conflict, NotServed

T = TypeVar("T")
SETTLED = 0.1  # seconds after a change of the folder from which on its time stamp tells of any further one


class Adapters:
    """An adapter store, asked by many clients at once.

    Args:
        store: the versions.
    """

    def __init__(self, store: AdapterStore) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._read: tuple[int, list[StoredAdapter]] | None = None

    def versions(self) -> list[StoredAdapter]:
        """All versions, oldest first; read again only when the folder has changed."""
        with self._lock:
            try:
                stamp = self.store.root.stat().st_mtime_ns
            except OSError:
                return []
            if self._read is None or self._read[0] != stamp or time.time_ns() - stamp < SETTLED * 1e9:
                self._read = stamp, self.store.versions()
            return self._read[1]

    def active(self) -> StoredAdapter | None:
        """The active version, None before the first training."""
        return next((stored for stored in self.versions() if stored.active), None)

    def find(self, version: int) -> StoredAdapter:
        """A version by its number.

        Raises:
            NotServed: there is none.
        """
        for stored in self.versions():
            if stored.version == version:
                return stored
        known = ", ".join(str(stored.version) for stored in self.versions()) or "none"
        raise NotServed(f"there is no adapter version {version}", remedy=f"Versions here: {known}")

    def listed(self) -> dict[str, Any]:
        """What ``GET /adapters/`` answers: the newest first."""
        active = self.active()
        return {
            "active": active.version if active else None,
            "versions": [entry(stored) for stored in reversed(self.versions())],
            "deleted": self.store.deleted(),
        }

    def activate(self, version: int) -> dict[str, Any]:
        """Make a version the active one.

        Raises:
            NotServed: there is no such version.
        """
        self.find(version)
        return self._changed(lambda: self.store.activate(version))

    def roll_back(self) -> dict[str, Any]:
        """Back to what was active before.

        Raises:
            Conflict: there was nothing before.
        """
        return self._changed(self.store.roll_back)

    def delete(self, version: int) -> dict[str, Any]:
        """Into the bin.

        Raises:
            NotServed: there is no such version.
            Conflict: it is the active one.
        """
        stored = self.find(version)

        def move() -> StoredAdapter:
            self.store.delete(version)
            return stored

        return self._changed(move)

    def restore(self, version: int) -> dict[str, Any]:
        """Out of the bin.

        Raises:
            Conflict: it is not there.
        """
        return self._changed(lambda: self.store.restore(version))

    def pack(self, version: int, path: Path) -> None:
        """Write a version as an archive without names of cases."""
        stored = self.find(version)
        write_archive(stored.path, path, stored.card.expected_dice)

    def add(self, path: Path, limit_bytes: int) -> dict[str, Any]:
        """Keep an uploaded archive as a new version, which is not made active.

        Raises:
            FM3DError: not an adapter that can be used here, see :func:`fm3d_core.adaptation.archive.read_archive`.
        """
        adapter = read_archive(path, limit_bytes=limit_bytes)
        return self._changed(lambda: self.store.save(adapter, activate=False))

    def _changed(self, change: Callable[[], StoredAdapter]) -> dict[str, Any]:
        with self._lock:
            try:
                stored = change()
            except AdapterError as error:
                raise Conflict(error.problem, remedy=error.remedy) from error
            finally:
                self._read = None
            return entry(stored)


def entry(stored: StoredAdapter) -> dict[str, Any]:
    """One version as clients see it."""
    card = stored.card
    expected = card.expected_dice
    return {
        "version": stored.version,
        "active": stored.active,
        "created": card.created,
        "stage": card.stage or "final",
        "method": card.method,
        "preset": card.settings.get("preset"),
        "recipe": (card.settings.get("recipe") or {}).get("name"),
        "kind": card.task.kind,
        "labels": list(card.task.labels),
        "cases": [case.name for case in card.cases],
        "expected_dice": expected
        and {"mean": expected.mean, "low": expected.low, "high": expected.high, "how": expected.how},
        "seconds": card.training.get("seconds"),
        "notes": [*card.notes, *card.left_out],
        "bytes": size_of(stored),
        "backbone": card.backbone.preset,
    }


def size_of(stored: StoredAdapter) -> int:
    """Bytes of a version's tensors; 0 if they are gone."""
    try:
        return (stored.path / TENSORS_FILE).stat().st_size
    except OSError:
        return 0
