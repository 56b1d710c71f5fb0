"""``fm3d adapters``: the versions of what was learned."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fm3d_core.cli.options import StoreOption
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Adapters:
    """List the adapter versions, show one, make one active, go back to the one before, or take one away.

    Attributes:
        action: list; show VERSION; activate VERSION; roll-back; export [VERSION] --bundle FOLDER.
        version: for show, activate and export; export without it takes the active one.
        bundle: new folder for export: a MONAI bundle that holds the backbone too, and runs where FM3D is installed:
            python -m monai.bundle run, fm3d predict --adapter FOLDER, or the Dockerfile.
        store: where the adapters are.
    """

    action: tyro.conf.Positional[Literal["list", "show", "activate", "roll-back", "export"]] = "list"
    version: tyro.conf.Positional[int | None] = None
    bundle: Path | None = None
    store: Annotated[StoreOption, tyro.conf.arg(name="")] = field(default_factory=StoreOption)

    def run(self) -> None:
        """Do what ``action`` says."""
        from rich.console import Console

        console = Console()
        if self.action == "list":
            self._list(console)
        elif self.action == "show":
            card = self.store.open().load(self._number()).card
            console.print_json(json.dumps(card.to_dict(), ensure_ascii=False))
        elif self.action == "activate":
            console.print(f"Version {self.store.open().activate(self._number()).version} is active")
        elif self.action == "export":
            self._export(console)
        else:
            console.print(f"Version {self.store.open().roll_back().version} is active again")

    def _export(self, console: Console) -> None:
        from fm3d_core.adaptation.bundle import export_bundle

        if self.bundle is None:
            raise SettingsError("export needs a folder", remedy="Say fm3d adapters export --bundle FOLDER")
        adapter = self.store.open().load(self.version)
        folder = export_bundle(adapter, self.bundle, self.bundle.name)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        console.print(f"{folder} ({size / 1e6:.1f} MB)", soft_wrap=True)

    def _number(self) -> int:
        if self.version is None:
            raise SettingsError(
                f"{self.action} needs a version", remedy=f"Say fm3d adapters {self.action} 2, for example"
            )
        return self.version

    def _list(self, console: Console) -> None:
        from rich.table import Table

        store = self.store.open()
        versions = store.versions()
        if not versions:
            console.print(f"No adapters in {store.root}; fm3d finetune makes one", soft_wrap=True)
            return
        table = Table(
            "",
            "version",
            "created (UTC)",
            "structures",
            "method",
            "cases",
            "loss",
            "expected Dice",
            title=str(store.root),
        )
        for stored in versions:
            card = stored.card
            table.add_row(
                "active" if stored.active else "",
                str(stored.version),
                card.created[:16].replace("T", " "),
                ", ".join(card.task.labels),
                f"{card.method}, {card.backbone.preset}",
                str(len(card.cases)),
                f"{card.training['loss']:.3f}" if "loss" in card.training else "",
                str(card.expected_dice or ""),
            )
        console.print(table)
