"""``fm3d weights``: public weight files, what they are, whether they are here, and how they get here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fm3d_core.errors import SettingsError, WeightsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.models.weights.catalogue import WeightEntry
    from fm3d_core.models.weights.store import WeightCard


@dataclass(frozen=True)
class Weights:
    """List the public weights, show what is known of one, fetch or import it, or check what is here.

    What is fetched or imported is kept as a private copy in FM3D's folder; use it with --weights ID.

    Attributes:
        action: list; info ID; fetch ID; import FILE; verify.
        what: the id, or the file to import.
        layout: import: the id whose layout the file has; default: recognised by the names of its tensors.
        backbone: fetch and import: another backbone of the same family, for a file of another size.
        channels: fetch and import: image channels.
        accept_licence: fetch: do not ask.
    """

    action: tyro.conf.Positional[Literal["list", "info", "fetch", "import", "verify"]] = "list"
    what: tyro.conf.Positional[str | None] = None
    layout: Annotated[str | None, tyro.conf.arg(name="as", metavar="ID")] = None
    backbone: str | None = None
    channels: int = 1
    accept_licence: bool = False

    def run(self) -> None:
        """Do what ``action`` says."""
        from rich.console import Console

        console = Console()
        if self.action == "list":
            self._list(console)
        elif self.action == "info":
            self._info(console)
        elif self.action == "fetch":
            self._fetch(console)
        elif self.action == "import":
            self._import(console)
        else:
            self._verify(console)

    def _entry(self) -> WeightEntry:
        from fm3d_core.models.weights.catalogue import find_entry

        return find_entry(self._needed("an id", "fm3d weights list shows them"))

    def _needed(self, thing: str, remedy: str) -> str:
        if self.what is None:
            raise SettingsError(f"{self.action} needs {thing}", remedy=remedy)
        return self.what

    def _list(self, console: Console) -> None:
        from rich.table import Table

        from fm3d_core.models.weights.catalogue import catalogue
        from fm3d_core.models.weights.shipped_weights import shipped_weights
        from fm3d_core.models.weights.store import weight_cards, weights_folder

        cards = weight_cards()
        table = Table("id", "backbone", "download", "here", "licence", title=str(weights_folder()))
        for shipped in shipped_weights().values():
            size = f"yes, {shipped.sha256[:8]}, {shipped.path.stat().st_size / 1e6:.1f} MB"
            table.add_row(shipped.id, shipped.backbone, "with FM3D", size, shipped.licence)
        for entry in catalogue().values():
            size = f"{entry.megabytes} MB" if entry.megabytes else "by hand" if entry.source is None else ""
            here = next((card for card in cards if card.id == entry.id), None)
            table.add_row(entry.id, entry.backbone, size, _place(here) if here else "", entry.licence)
        for card in cards:
            if card.id is None:
                shape = "own shape" if _own_options(card) else card.backbone
                table.add_row(f"own file {card.source}", shape, "", _place(card), "")
        console.print(table)

    def _info(self, console: Console) -> None:
        from fm3d_core.models.weights.shipped_weights import FOLDER, shipped_weights
        from fm3d_core.models.weights.store import weight_cards

        if (shipped := shipped_weights().get(self.what or "")) is not None:
            lines = (f"{shipped.id}: {shipped.about}", f"backbone: {shipped.backbone}", f"licence: {shipped.licence}")
            for line in (*lines, f"more: {FOLDER / 'MODEL_CARD.md'}"):
                console.print(line, soft_wrap=True, highlight=False)
            return
        entry = self._entry()
        _describe(console, entry)
        for name, value in entry.preprocessing.items():
            console.print(f"{name}: {value}", soft_wrap=True)
        if properties := ", ".join(f"{name} {value}" for name, value in entry.properties.items()):
            console.print(f"computed with: {properties}", soft_wrap=True)
        for card in weight_cards():
            if card.id == entry.id:
                console.print(f"here: {card.sha256}, made of {card.source} on {card.created[:10]}", soft_wrap=True)

    def _fetch(self, console: Console) -> None:
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.models.weights.fetching import downloaded
        from fm3d_core.models.weights.importing import import_checkpoint

        entry = self._entry()
        if self.layout not in (None, entry.id):
            raise SettingsError(f"{entry.id} is fetched as itself, not as {self.layout}", remedy="Leave --as out")
        _describe(console, entry)
        if entry.source is not None and not self.accept_licence:
            _ask(console)
        with progress_bar(console) as show, downloaded(entry, progress=show) as path:
            card = import_checkpoint(path, entry.id, self.backbone, self.channels)
        _report(console, card)

    def _import(self, console: Console) -> None:
        from fm3d_core.models.weights.catalogue import find_entry
        from fm3d_core.models.weights.importing import import_checkpoint

        file = Path(self._needed("a file", "Say fm3d weights import FILE"))
        card = import_checkpoint(file, self.layout, self.backbone, self.channels)
        if card.id is not None:
            entry = find_entry(card.id)
            how = "as you said" if self.layout else "recognised by its tensors and its name"
            console.print(f"Read as {entry.id} ({how}): {entry.about}", soft_wrap=True)
            console.print(f"licence: {entry.licence_and_terms}", soft_wrap=True)
        _report(console, card, file)

    def _verify(self, console: Console) -> None:
        from fm3d_core.models.weights.store import damaged_weights, weights_folder

        damaged = damaged_weights()
        for path, reason in damaged:
            console.print(f"damaged: {path}: {reason}", soft_wrap=True)
        if damaged:
            raise WeightsError(
                f"{len(damaged)} files are damaged", path=weights_folder(), remedy="Delete them and import them again"
            )
        count = len(list(weights_folder().glob("*.safetensors")))
        console.print(f"{count} weight files in {weights_folder()}: all as they were written", soft_wrap=True)


def _place(card: WeightCard) -> str:
    from fm3d_core.models.weights.store import cached_weights

    return f"yes, {card.sha256[:8]}, {cached_weights(card.sha256).stat().st_size / 1e6:.0f} MB"


def _own_options(card: WeightCard) -> str:
    """The options of a backbone that is no preset; empty for a preset."""
    from fm3d_core.models.weights.store import cached_weights, read_header

    options = read_header(cached_weights(card.sha256)).get("options") or {}
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _describe(console: Console, entry: WeightEntry) -> None:
    lines = {
        entry.id: entry.about,
        "backbone": entry.backbone,
        "source": entry.page,
        "licence": entry.licence_and_terms,
        "citation": entry.citation,
        "access": entry.gated,
    }
    for name, text in lines.items():
        if text:
            console.print(f"{name}: {text}", soft_wrap=True, highlight=False)


def _ask(console: Console) -> None:
    if not sys.stdin.isatty():
        raise SettingsError("the licence must be accepted", remedy="Read it above and add --accept-licence")
    if console.input("Accept the licence and download? \\[y/N] ").strip().lower() not in ("y", "yes"):
        raise SettingsError("the licence was not accepted", remedy="Nothing was downloaded")


def _report(console: Console, card: WeightCard, file: Path | None = None) -> None:
    """What landed and how to use it; ``file`` as the user named it, for weights without an id."""
    for line in card.report.lines():
        console.print(line, soft_wrap=True)
    use = f"--weights {card.id}" if card.id else f"--weights {file} --backbone {card.backbone}"
    if own := _own_options(card):
        console.print(f"A backbone of its own shape: {own}", soft_wrap=True)
        use = f"--weights {file}"
    console.print(f"Kept for you alone as {card.sha256}. Use it with {use}", soft_wrap=True)
