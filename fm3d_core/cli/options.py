"""Options that several commands share: which adapter, which cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import CaseError, SettingsError
from fm3d_core.files import home_folder, sha256_of

if TYPE_CHECKING:
    from fm3d_core.adaptation import Adapter, AdapterStore
    from fm3d_core.volumes import Case


@dataclass(frozen=True)
class StoreOption:
    """Where adapters are kept.

    Attributes:
        store: folder of the adapter versions; default: adapters in FM3D's folder, $FM3D_HOME or ~/.fm3d.
    """

    store: Path | None = None

    def open(self) -> AdapterStore:
        """The store."""
        from fm3d_core.adaptation import AdapterStore

        return AdapterStore(self.store or home_folder() / "adapters")


@dataclass(frozen=True)
class AdapterOption(StoreOption):
    """Which adapter is used.

    Attributes:
        version: a version of the store; default: the active one.
        adapter: an adapter folder or a bundle (fm3d adapters export), instead of the store.
    """

    version: int | None = None
    adapter: Path | None = None

    def load(self) -> Adapter:
        """Read the adapter.

        Raises:
            SettingsError: both a version and a folder are given.
            AdapterError: missing or damaged.
        """
        from fm3d_core.adaptation import Adapter
        from fm3d_core.adaptation.bundle import is_bundle, load_bundle

        if self.adapter is None:
            return self.open().load(self.version)
        if self.version is not None:
            raise SettingsError("both --version and --adapter are given", remedy="Give one of them")
        return load_bundle(self.adapter) if is_bundle(self.adapter) else Adapter.load(self.adapter)

    def locate(self) -> tuple[int | None, Path]:
        """The version number (None of a folder) and the folder of an adapter that can be loaded."""
        if self.adapter is not None:
            return None, self.adapter
        versions, wanted = self.open().versions(), self.version
        stored = next(one for one in versions if (one.active if wanted is None else one.version == wanted))
        return stored.version, stored.path


def identity_of(option: AdapterOption) -> dict[str, Any]:
    """What names an adapter beyond doubt, for a file of results: version, folder, hash of its tensors, and its card.

    Raises:
        AdapterError: the card is damaged.
    """
    from fm3d_core.adaptation.adapter import TENSORS_FILE, read_card
    from fm3d_core.adaptation.bundle import MODEL, is_bundle, load_bundle

    version, folder = option.locate()
    if is_bundle(folder):
        card = load_bundle(folder).card
        return {
            "version": None,
            "folder": str(folder),
            "tensors_sha256": sha256_of(folder / MODEL),
            "card": card.to_dict(),
        }
    tensors = sha256_of(folder / TENSORS_FILE)
    return {"version": version, "folder": str(folder), "tensors_sha256": tensors, "card": read_card(folder).to_dict()}


def choose_cases(cases: Sequence[Case], names: Sequence[str], folder: Path) -> list[Case]:
    """The cases of these names, or all of them if no name is given.

    Raises:
        CaseError: a name that is not there.
    """
    if not names:
        return list(cases)
    known = {case.name: case for case in cases}
    if missing := [name for name in names if name not in known]:
        raise CaseError(
            f"has no case {', '.join(missing)}", path=folder, remedy=f"Its cases: {', '.join(list(known)[:20])}"
        )
    return [known[name] for name in names]
