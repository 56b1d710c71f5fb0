"""The versions of what was learned: numbered adapter folders that never change, one of them active."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fm3d_core.adaptation.adapter import Adapter, AdapterCard, read_card, tensors_sha256
from fm3d_core.adaptation.expected_dice import ExpectedDice
from fm3d_core.errors import AdapterError
from fm3d_core.files import atomic_file, storage_error

logger = logging.getLogger(__name__)
_VERSION = re.compile(r"v(\d{4,})")
BIN = "bin"  # folder of deleted versions below the store


@dataclass(frozen=True)
class StoredAdapter:
    """One version: its number, folder and card, and whether it is the active one."""

    version: int
    path: Path
    card: AdapterCard
    active: bool


class AdapterStore:
    """Adapters of one task line in a folder: ``v0001``, ``v0002``, ... and ``active.json``.

    A version never changes. What Dice to expect of it may be measured later; it is kept beside it, in
    ``v0002.expected_dice.json``.

    Args:
        root: the folder; made at the first save.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def save(self, adapter: Adapter, *, activate: bool = True) -> StoredAdapter:
        """Write a new version and make it the active one, unless ``activate`` is False.

        Raises:
            StorageError: the folder cannot be written; nothing is left behind and the active version stays.
        """
        while True:
            version = max(self._numbers() + self.deleted(), default=0) + 1  # a number is never given twice
            try:
                adapter.save(self._folder(version))
                break
            except FileExistsError:
                continue  # another process took the number
        if not activate:
            return StoredAdapter(version, self._folder(version), adapter.card, active=False)
        return self.activate(version)

    def versions(self) -> list[StoredAdapter]:
        """All readable versions, oldest first."""
        active = self._history()[-1:]
        found = []
        for version in self._numbers():
            try:
                card = self._card(version)
            except AdapterError:
                continue  # load() of this version says what is wrong
            found.append(StoredAdapter(version, self._folder(version), card, [version] == active))
        return found

    def active(self) -> StoredAdapter | None:
        """The active version, None before the first training."""
        return next((stored for stored in self.versions() if stored.active), None)

    def load(self, version: int | None = None) -> Adapter:
        """Read a version, by default the active one.

        Raises:
            AdapterError: there is no such version, or it is damaged.
        """
        if version is None:
            history = self._history()
            if not history:
                raise AdapterError("nothing was learned yet", path=self.root, remedy="Label a volume and train first")
            version = history[-1]
        self._check(version)
        adapter = Adapter.load(self._folder(version))
        return replace(adapter, card=self._with_estimate(version, adapter.card))

    def record_estimate(self, version: int, expected: ExpectedDice) -> StoredAdapter:
        """Keep what was measured of a version after it was stored; a later figure takes the place of an earlier one.

        Raises:
            AdapterError: there is no such version, or its card is damaged.
            StorageError: the folder cannot be written.
        """
        self._check(version)
        record = {"tensors_sha256": tensors_sha256(self._folder(version)), "expected_dice": asdict(expected)}
        with atomic_file(self._estimate_file(version)) as temporary:
            temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        return StoredAdapter(
            version, self._folder(version), self._card(version), active=[version] == self._history()[-1:]
        )

    def activate(self, version: int) -> StoredAdapter:
        """Make a version the active one.

        Raises:
            AdapterError: there is no such version, or its card is damaged.
            StorageError: the folder cannot be written.
        """
        self._check(version)
        card = self._card(version)
        self._write_history([*self._history(), version])
        return StoredAdapter(version, self._folder(version), card, active=True)

    def roll_back(self) -> StoredAdapter:
        """Make the version active that was active before the present one.

        Raises:
            AdapterError: there was none.
        """
        history = self._history()
        earlier = [version for version in history if version != history[-1]] if history else []
        if not earlier:
            raise AdapterError("there is no earlier version to roll back to", path=self.root, remedy="Train again")
        while history[-1] != earlier[-1]:
            history.pop()
        card = self._card(history[-1])
        self._write_history(history)
        return StoredAdapter(history[-1], self._folder(history[-1]), card, active=True)

    def delete(self, version: int) -> None:
        """Move a version into the bin, from where :meth:`restore` brings it back.

        Raises:
            AdapterError: there is no such version, or it is the active one.
            StorageError: the folder cannot be written.
        """
        self._check(version)
        if [version] == self._history()[-1:]:
            raise AdapterError(f"version {version} is active", remedy="Activate another version, then delete this one")
        self._move(self._folder(version), self._binned(version))

    def restore(self, version: int) -> StoredAdapter:
        """Bring a deleted version back under its number.

        Raises:
            AdapterError: it is not in the bin, or its card is damaged.
            StorageError: the folder cannot be written.
        """
        if version not in self.deleted():
            known = ", ".join(map(str, self.deleted())) or "none"
            raise AdapterError(f"version {version} is not in the bin", remedy=f"Versions in the bin: {known}")
        self._move(self._binned(version), self._folder(version))
        return next(stored for stored in self.versions() if stored.version == version)

    def deleted(self) -> list[int]:
        """The versions in the bin."""
        return _numbers_in(self.root / BIN)

    def _move(self, path: Path, target: Path) -> None:
        try:
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        except OSError as error:
            raise storage_error(target, error) from error

    def _folder(self, version: int) -> Path:
        return self.root / f"v{version:04d}"

    def _estimate_file(self, version: int) -> Path:
        return self.root / f"v{version:04d}.expected_dice.json"

    def _card(self, version: int) -> AdapterCard:
        return self._with_estimate(version, read_card(self._folder(version)))

    def _with_estimate(self, version: int, card: AdapterCard) -> AdapterCard:
        """The card with what was measured later, unless that was of another adapter that once had this number."""
        path = self._estimate_file(version)
        if not path.is_file():
            return card
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["tensors_sha256"] != tensors_sha256(self._folder(version)):
                return card
            return replace(card, expected_dice=ExpectedDice.from_dict(record["expected_dice"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and not used (%s); measure again or delete it", path, error)
            return card

    def _binned(self, version: int) -> Path:
        return self.root / BIN / f"v{version:04d}"

    def _numbers(self) -> list[int]:
        return _numbers_in(self.root)

    def _check(self, version: int) -> None:
        numbers = self._numbers()
        if version not in numbers:
            known = ", ".join(map(str, numbers)) or "none"
            raise AdapterError(f"there is no version {version}", path=self.root, remedy=f"Versions here: {known}")

    def _history(self) -> list[int]:
        """Versions in the order in which they became active; the last one is active now."""
        path = self.root / "active.json"
        if not path.is_file():
            return []
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["history"]
            return [version for version in history if version in set(self._numbers())]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(
                "the record of the active version is damaged",
                path=path,
                remedy="Delete this file and activate a version by number",
            ) from error

    def _write_history(self, history: list[int]) -> None:
        with atomic_file(self.root / "active.json") as temporary:
            temporary.write_text(json.dumps({"active": history[-1], "history": history}), encoding="utf-8")


def _numbers_in(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_VERSION.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)
